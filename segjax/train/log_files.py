"""What a run writes down while it goes: metrics, timing, TensorBoard events, the progress line.

Only process 0 writes: every logger takes `enabled` and does nothing, not even open a file, where it is False.

    <stage>/metrics.jsonl   deterministic values only: the file of a run that was killed and resumed is, byte
                            for byte, that of a run that never was. The lines of a step are written before its
                            checkpoint is saved
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
from typing import Any

import numpy as np
import tensorboardX
import tqdm
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from segjax.core import files
from segjax.core.files import to_json

# --- files ----------------------------------------------------------------------------------------------------


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(to_json(record), allow_nan=False) + '\n'


def _append(file, line: str) -> None:
    file.write(line)
    file.flush()
    os.fsync(file.fileno())


def _scalars(scalars: Mapping[str, Any]) -> dict[str, int | float | None]:
    values = {name: to_json(scalars[name]) for name in sorted(scalars)}
    for name, value in values.items():
        if isinstance(value, (list, dict, str)):
            raise TypeError(f'{name} is not a scalar: {value!r}')
    return values


# --- logs of a stage ------------------------------------------------------------------------------------------


class MetricsLog:
    """`metrics.jsonl`: {"step": 20, "kind": "train", "loss": 0.53, ...}, an object a line, scalars by name.

    Opening at `start_step` forgets what a killed run wrote after its last checkpoint: lines with a later
    step are dropped, all lines if the run starts from scratch (start_step 0). Floats are written with `repr`,
    which reads back exactly; NaN and infinities are null.
    """

    def __init__(self, folder: pathlib.Path, start_step: int, enabled: bool = True):
        self._file = None
        if not enabled:
            return
        path = pathlib.Path(folder) / 'metrics.jsonl'
        records = [r for r in files.read_lines(path) if r['step'] <= start_step and start_step > 0]
        files.write_text(path, ''.join(_line(r) for r in records))
        # A run that is resumed at its last step may evaluate it again: the same line must not stand there twice.
        self._known = {_line(r) for r in records if r['step'] == start_step}
        self._file = path.open('a', encoding='utf-8')

    def write(self, step: int, kind: str, scalars: Mapping[str, Any]) -> None:
        """Appends one line and waits until it is on disk.

        Args:
          step: the optimiser step that the values belong to.
          kind: 'train' or 'eval'.
          scalars: numbers by name; nothing that depends on the clock.
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
    """`timing.jsonl`: {"step": 20, "images_per_second": 31.2, ...}; TIMING_INCLUDES says what is in the numbers.

    The report knows images_per_second, seconds_per_step, input_wait_share (share of the time in which the loop waited
    for input) and compile_seconds (the first step of a process).
    """

    def __init__(self, folder: pathlib.Path, enabled: bool = True):
        self._file = None
        if not enabled:
            return
        path = pathlib.Path(folder) / 'timing.jsonl'
        files.write_text(
            path, ''.join(_line(r) for r in files.read_lines(path))
        )  # without a torn last line
        self._file = path.open('a', encoding='utf-8')

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        if self._file is not None:
            _append(self._file, _line({'step': int(step), **_scalars(scalars)}))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class TensorBoard:
    """TensorBoard events. A reader purges what a killed run wrote after `start_step`.

    Written here and now: tensorboardX's SummaryWriter has a thread that dies when the disk is full, and then waits for
    it for ever.
    """

    def __init__(self, folder: pathlib.Path, start_step: int, enabled: bool = True):
        self._writer = None
        if enabled:
            folder.mkdir(parents=True, exist_ok=True)
            # Files are named by the second: without the suffix a quick restart would write over the one before.
            self._writer = EventsWriter(
                str(folder / 'events'), filename_suffix=f'.{start_step:09d}'
            )
            self._write(start_step + 1, session_log=SessionLog(status=SessionLog.START))

    def _write(self, step: int, **content: Any) -> None:
        self._writer.write_event(Event(step=step, wall_time=time.time(), **content))
        self._writer.flush()

    def scalars(self, step: int, kind: str, scalars: Mapping[str, Any]) -> None:
        """Numbers by name, shown as <kind>/<name>; None is a gap."""
        if self._writer is None:
            return
        values = {
            f'{kind}/{name}': float(value) for name, value in scalars.items() if value is not None
        }
        self._write(
            step,
            summary=Summary(
                value=[Summary.Value(tag=k, simple_value=v) for k, v in values.items()]
            ),
        )

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """One uint8 picture [H, W, 3] RGB, or grey [H, W]."""
        if self._writer is None:
            return
        # tensorboardX would encode through Pillow, which is no requirement of ours; the message is the same.
        picture = Summary.Image(
            height=image.shape[0],
            width=image.shape[1],
            colorspace=1 if image.ndim == 2 else image.shape[2],
            encoded_image_string=files.encode_png(image),
        )
        self._write(step, summary=Summary(value=[Summary.Value(tag=name, image=picture)]))

    def config(self, config: Any) -> None:
        """The configuration as text. TensorBoard renders Markdown: an indented block keeps it verbatim."""
        if self._writer is not None:
            lines = json.dumps(to_json(config), indent=2).splitlines()
            text = tensorboardX.summary.text('config', '\n'.join('    ' + line for line in lines))
            self._write(0, summary=text)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Progress:
    """Where a stage stands, on stderr: a bar on a terminal, else a plain line every `interval` seconds."""

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
        self._name, self._num_steps = name, num_steps
        self._stream = sys.stderr if stream is None else stream
        self._enabled, self._now, self._interval = enabled, now, interval
        self._loss, self._rate = None, None
        self._origin, self._printed = (
            None,
            -math.inf,
        )  # (step, time) after the first step, which compiles
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
        """`step` steps are done. Loss and speed stay as they were where they are not given."""
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
        if now - self._printed < self._interval and not last:
            return
        self._printed = now
        done = step - self._origin[0]
        parts = [
            f'step {step}/{self._num_steps} ({100 * step // max(self._num_steps, 1)} %)',
            *self._values(),
        ]
        if done > 0 and step < self._num_steps:
            parts.append(
                'ETA ' + duration((now - self._origin[1]) / done * (self._num_steps - step))
            )
        self.message(f'[{self._name}] ' + ', '.join(parts))

    def _values(self) -> list[str]:
        loss = [] if self._loss is None else [f'loss {self._loss:.4g}']
        return loss + ([] if self._rate is None else [f'{self._rate:.3g} images/s'])

    def message(self, text: str) -> None:
        """A line of its own that does not tear the bar."""
        if self._enabled and self._bar is not None:
            self._bar.write(text, file=self._stream)
        elif self._enabled:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f'{hour}:{minute:02d}:{second:02d}' if hour else f'{minute}:{second:02d}'
