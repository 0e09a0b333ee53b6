"""What a stage writes down while it trains: metrics, speed, TensorBoard and the progress bar behind one object.

metrics.jsonl holds only what is a function of (config, step), so that it is the same file whether a run was killed on
the way or not; what depends on the clock goes to timing.jsonl.
"""

import pathlib
import time
from collections.abc import Mapping

import numpy as np

from segjax.protocol import Mean, Scores
from segjax.report.scores import flat_scalars
from segjax.train import log_files


class Window:
    """Sums of the training metrics since the last line of the log. It is part of a checkpoint, so that a resumed run
    closes the window with the steps from before."""

    def __init__(self, stored: Mapping[str, list]):
        self._sums = {k: Mean(np.float64(a), np.float64(b)) for k, (a, b) in stored.items()}

    def add(self, metrics: Mapping[str, Mean]) -> None:
        """Adds one step's scalar metrics."""
        for name, m in metrics.items():
            if np.shape(m.sum) or np.shape(m.count):
                raise ValueError(
                    f'training metric {name!r} must be a scalar Mean, got a sum of shape {np.shape(m.sum)}'
                )
            old = self._sums.get(name, Mean(np.float64(0), np.float64(0)))
            self._sums[name] = Mean(old.sum + np.float64(m.sum), old.count + np.float64(m.count))

    def close(self) -> dict[str, float | None]:
        """The means (None where nothing was counted), and an empty window."""
        values = {name: float(m.value()) if m.count else None for name, m in self._sums.items()}
        self._sums = {}
        return values

    def stored(self) -> dict[str, list]:
        return {k: [float(m.sum), float(m.count)] for k, m in self._sums.items()}


class Clock:
    """Speed of the loop between two log lines, without the first step (it compiles) and without pauses."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._last = time.perf_counter()
        self._first_step = True
        self._reset()

    def _reset(self):
        self._steps, self._seconds, self._waited, self._compile = 0, 0.0, 0.0, None

    def tick(self, waited: float) -> None:
        """A step is done, `waited` seconds of it waiting for input."""
        now = time.perf_counter()
        if self._first_step:
            self._compile, self._first_step = now - self._last, False
        else:
            self._steps += 1
            self._seconds += now - self._last
            self._waited += waited
        self._last = now

    def resume(self) -> None:
        """What happened since the last tick (an evaluation, a checkpoint) is not counted."""
        self._last = time.perf_counter()

    def close(self) -> dict[str, float]:
        """images_per_second, seconds_per_step, input_wait_share, once compile_seconds (first step); starts anew."""
        speed = {} if self._compile is None else {'compile_seconds': self._compile}
        if self._steps:
            speed |= {
                'images_per_second': self._batch_size * self._steps / self._seconds,
                'seconds_per_step': self._seconds / self._steps,
                'input_wait_share': self._waited / self._seconds,
            }
        self._reset()
        return speed


class Journal:
    """The log files, the TensorBoard events and the progress bar of one stage.

    Args:
      folder: <workdir>/<stage>.
      stage: its name.
      num_steps, start_step: where it ends and where this process takes it up.
      batch_size: global, for images per second.
      window: the open window of the checkpoint, {} at the start.
      enabled: False in all processes but the main one.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        stage: str,
        num_steps: int,
        start_step: int,
        batch_size: int,
        window: Mapping[str, list],
        enabled: bool,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.window = Window(window)
        self.clock = Clock(batch_size)
        self._metrics = log_files.MetricsLog(folder, start_step, enabled)
        self._timing = log_files.TimingLog(folder, enabled)
        self._board = log_files.TensorBoard(folder / 'tensorboard', start_step, enabled)
        self._progress = log_files.Progress(stage, num_steps, start_step, enabled)

    def step(self, step: int, waited: float) -> None:
        self.clock.tick(waited)
        self._progress.update(step)

    def close_window(self, step: int) -> None:
        """Writes the means of the training metrics since the last line, and the speed."""
        values, speed = self.window.close(), self.clock.close()
        self._metrics.write(step, 'train', values)
        self._timing.write(step, speed)
        self._board.scalars(step, 'train', values)
        self._board.scalars(step, 'speed', speed)
        self._progress.update(step, values['loss'], speed.get('images_per_second'))

    def evaluated(self, step: int, scores: Scores) -> None:
        """Writes the scores of an evaluation."""
        scalars = flat_scalars(scores)
        self._metrics.write(step, 'eval', scalars)
        self._board.scalars(step, 'eval', scalars)
        headline = [f'{k} {v:.4f}' for k, v in scores.items() if isinstance(v, float)][:3]
        self._progress.message(f'step {step}: ' + ', '.join(headline))

    def config(self, config) -> None:
        self._board.config(config)

    def close(self) -> None:
        for part in (self._metrics, self._timing, self._board, self._progress):
            part.close()
