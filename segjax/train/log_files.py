"""The log files of a stage: metrics, timing, TensorBoard events. Also the progress line on stderr.

Only process 0 writes. Every logger takes `enabled`, and if it is False does not even open a file.

    <stage>/metrics.jsonl   deterministic values only. A run that was killed and resumed writes the
                            same bytes as an undisturbed run. The lines of a step are written
                            before its checkpoint is saved
    <stage>/timing.jsonl    speed, which differs from run to run; appended
    <stage>/tensorboard/    events
"""

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import numpy as np
import tensorboardX.summary
import tqdm
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from segjax.core import files
from segjax.core.files import to_json

# --- lines of JSON --------------------------------------------------------------------------------


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(to_json(record), allow_nan=False) + '\n'


def _append(file: TextIO, line: str) -> None:
    """Appends a line, and waits until it is on the disk."""
    file.write(line)
    file.flush()
    os.fsync(file.fileno())


def _scalars(scalars: Mapping[str, Any]) -> dict[str, int | float | None]:
    """Returns scalars sorted by name, as JSON can hold them. Raises TypeError for anything else."""
    values = {name: to_json(scalars[name]) for name in sorted(scalars)}
    for name, value in values.items():
        if isinstance(value, (list, dict, str)):
            raise TypeError(f'{name} is not a scalar: {value!r}')
    return values


# --- logs of a stage ------------------------------------------------------------------------------


class MetricsLog:
    """`metrics.jsonl`: {"step": 20, "kind": "train", "loss": 0.53, ...}, one object per line.

    Opening it at `start_step` drops lines with a later step, which a killed run wrote after its
    last checkpoint. At `start_step` 0 all lines are dropped. Floats are written with `repr`, which
    reads back exactly. NaN and infinities are null.
    """

    def __init__(self, folder: pathlib.Path, start_step: int, enabled: bool = True):
        self._file: TextIO | None = None
        if not enabled:
            return
        path = pathlib.Path(folder) / 'metrics.jsonl'
        last = start_step if start_step > 0 else -math.inf
        records = [r for r in files.read_lines(path) if r['step'] <= last]
        files.write_text(path, ''.join(_line(r) for r in records))
        # A run that resumes at its last step may evaluate it again. The line must not occur twice.
        self._known = {_line(r) for r in records if r['step'] == start_step}
        self._file = path.open('a', encoding='utf-8')

    def write(self, step: int, kind: str, scalars: Mapping[str, Any]) -> None:
        """Appends one line and waits until it is on the disk.

        Args:
          step: the optimiser step of the values.
          kind: 'train' or 'eval'.
          scalars: numbers by name. None may depend on the clock.
        """
        if self._file is None:
            return
        clash = {'step', 'kind'} & set(scalars)
        if clash:
            raise ValueError(f'{sorted(clash)} are names of the line itself, not of scalars')
        line = _line({'step': int(step), 'kind': kind, **_scalars(scalars)})
        if line not in self._known:
            _append(self._file, line)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class TimingLog:
    """`timing.jsonl`: {"step": 20, "images_per_second": 31.2, ...}.

    The report shows images_per_second, seconds_per_step, input_wait_share (fraction of the time in
    which the loop waited for input) and compile_seconds (first step of a process).
    """

    def __init__(self, folder: pathlib.Path, enabled: bool = True):
        self._file: TextIO | None = None
        if not enabled:
            return
        path = pathlib.Path(folder) / 'timing.jsonl'
        # Rewriting the file drops a torn last line.
        files.write_text(path, ''.join(_line(r) for r in files.read_lines(path)))
        self._file = path.open('a', encoding='utf-8')

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Appends one line and waits until it is on the disk."""
        if self._file is not None:
            _append(self._file, _line({'step': int(step), **_scalars(scalars)}))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class TensorBoard:
    """Writes TensorBoard events. TensorBoard purges events of a killed run after `start_step`.

    Events are written in the calling thread. The thread of tensorboardX's SummaryWriter dies when
    the disk is full, and the writer then waits for it for ever.
    """

    def __init__(self, folder: pathlib.Path, start_step: int, enabled: bool = True):
        self._writer = None
        if enabled:
            folder.mkdir(parents=True, exist_ok=True)
            # File names hold the second. A quick restart would overwrite a file without the suffix.
            suffix = f'.{start_step:09d}'
            self._writer = EventsWriter(str(folder / 'events'), filename_suffix=suffix)
            self._write(start_step + 1, session_log=SessionLog(status=SessionLog.START))

    def _write(self, step: int, **content: Any) -> None:
        assert self._writer is not None, 'the log is disabled'
        self._writer.write_event(Event(step=step, wall_time=time.time(), **content))
        self._writer.flush()

    def scalars(self, step: int, kind: str, scalars: Mapping[str, Any]) -> None:
        """Writes numbers by name, shown as <kind>/<name>. None is a gap."""
        if self._writer is None:
            return
        values = []
        for name, value in scalars.items():
            if value is not None:
                values.append(Summary.Value(tag=f'{kind}/{name}', simple_value=float(value)))
        self._write(step, summary=Summary(value=values))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes one uint8 picture [H, W, 3] RGB, or grey [H, W]."""
        if self._writer is None:
            return
        # The message that tensorboardX would make, but encoded by OpenCV like all pictures here.
        picture = Summary.Image(
            height=image.shape[0],
            width=image.shape[1],
            colorspace=1 if image.ndim == 2 else image.shape[2],
            encoded_image_string=files.encode_png(image),
        )
        self._write(step, summary=Summary(value=[Summary.Value(tag=name, image=picture)]))

    def config(self, config: Any) -> None:
        """Writes the config as text, indented: TensorBoard renders Markdown."""
        if self._writer is not None:
            lines = json.dumps(to_json(config), indent=2).splitlines()
            text = tensorboardX.summary.text('config', '\n'.join('    ' + line for line in lines))
            self._write(0, summary=text)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Progress:
    """Shows the progress of a stage on stderr: a bar on a terminal, otherwise a line now and then.

    Args:
      name: of the stage.
      num_steps: its last step.
      start_step: the step from which this process trains.
      enabled: False prints nothing.
      stream: stderr by default.
      now: returns the time in seconds.
      interval: seconds between two lines, if the stream is no terminal.
    """

    def __init__(
        self,
        name: str,
        num_steps: int,
        start_step: int = 0,
        enabled: bool = True,
        stream: Any = None,
        now: Callable[[], float] = time.monotonic,
        interval: float = 10.0,
    ):
        self._name = name
        self._num_steps = num_steps
        self._stream = sys.stderr if stream is None else stream
        self._enabled = enabled
        self._now = now
        self._interval = interval
        self._loss: float | None = None
        self._rate: float | None = None
        # (step, time) after the first step. That step compiles and says nothing about speed.
        self._origin: tuple[int, float] | None = None
        self._printed = -math.inf
        self._bar = None
        if enabled and self._stream.isatty():
            self._bar = tqdm.tqdm(
                total=num_steps,
                initial=start_step,
                desc=name,
                unit='step',
                file=self._stream,
                dynamic_ncols=True,
            )

    def update(
        self, step: int, loss: float | None = None, images_per_second: float | None = None
    ) -> None:
        """Shows the number of finished steps. None keeps the loss or speed of the call before."""
        if not self._enabled:
            return
        self._loss = self._loss if loss is None else loss
        self._rate = self._rate if images_per_second is None else images_per_second
        if self._bar is not None:
            self._bar.set_postfix_str(', '.join(self._values()), refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = self._now()
        self._origin = self._origin or (step, now)
        last = step == self._num_steps and loss is not None
        if now - self._printed >= self._interval or last:
            self._printed = now
            self.message(f'[{self._name}] ' + ', '.join(self._parts(step, now)))

    def _parts(self, step: int, now: float) -> list[str]:
        """Returns the parts of a line: step, loss, speed, estimated time of arrival."""
        percent = 100 * step // max(self._num_steps, 1)
        parts = [f'step {step}/{self._num_steps} ({percent} %)', *self._values()]
        first_step, first_time = self._origin or (step, now)
        done = step - first_step
        if done > 0 and step < self._num_steps:
            seconds = (now - first_time) / done * (self._num_steps - step)
            parts.append('ETA ' + duration(seconds))
        return parts

    def _values(self) -> list[str]:
        """Returns loss and speed as text, as far as they are known."""
        values = []
        if self._loss is not None:
            values.append(f'loss {self._loss:.4g}')
        if self._rate is not None:
            values.append(f'{self._rate:.3g} images/s')
        return values

    def message(self, text: str) -> None:
        """Prints a line of its own that does not tear the bar."""
        if self._enabled and self._bar is not None:
            self._bar.write(text, file=self._stream)
        elif self._enabled:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """Returns a duration as h:mm:ss, or as m:ss below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f'{hour}:{minute:02d}:{second:02d}' if hour else f'{minute}:{second:02d}'
