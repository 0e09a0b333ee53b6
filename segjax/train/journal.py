"""Writes the reports of a stage that trains: metrics, speed, TensorBoard events, progress bar.

metrics.jsonl holds only functions of (config, step). A run that was killed on the way therefore
writes the same file as an undisturbed run. Values that depend on the clock go to timing.jsonl.
"""

import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.protocol import Mean, Metrics, Scores
from segjax.report.scores import flat_scalars
from segjax.train import log_files


class Window:
    """Sums of the training metrics since the last line of the log.

    The window is part of a checkpoint, so that a resumed run closes it with the steps from before.

    Args:
      stored: from `stored` of an earlier window, {} for an empty window.
    """

    def __init__(self, stored: Mapping[str, list]):
        self._sums = {k: Mean(np.float64(a), np.float64(b)) for k, (a, b) in stored.items()}

    def add(self, metrics: Metrics) -> None:
        """Adds the scalar metrics of one step.

        Raises:
          ValueError: a metric is no scalar.
        """
        for name, mean in metrics.items():
            if np.shape(mean.sum) or np.shape(mean.count):
                shape = np.shape(mean.sum)
                raise ValueError(
                    f'training metric {name!r} must be a scalar Mean, got a sum of shape {shape}'
                )
            old = self._sums.get(name, Mean(np.float64(0), np.float64(0)))
            total = old.sum + np.float64(mean.sum)
            count = old.count + np.float64(mean.count)
            self._sums[name] = Mean(total, count)

    def close(self) -> dict[str, float | None]:
        """Empties the window. Returns its means, None for a metric that counted nothing."""
        values: dict[str, float | None] = {}
        for name, mean in self._sums.items():
            values[name] = float(mean.value()) if mean.count else None
        self._sums = {}
        return values

    def stored(self) -> dict[str, list]:
        """Returns {name: [sum, count]}, as JSON can hold it."""
        return {k: [float(m.sum), float(m.count)] for k, m in self._sums.items()}


class Clock:
    """Measures the speed of the loop between two log lines, without its first step and pauses.

    The first step compiles. Its time is reported on its own.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._last = time.perf_counter()
        self._first_step = True
        self._reset()

    def _reset(self) -> None:
        self._steps = 0
        self._seconds = 0.0
        self._input_wait = 0.0
        self._compile: float | None = None

    def tick(self, input_wait: float) -> None:
        """Counts a step that has ended.

        Args:
          input_wait: seconds of the step in which it waited for input.
        """
        now = time.perf_counter()
        if self._first_step:
            self._compile = now - self._last
            self._first_step = False
        else:
            self._steps += 1
            self._seconds += now - self._last
            self._input_wait += input_wait
        self._last = now

    def resume(self) -> None:
        """Ends a pause, as of an evaluation. The time since the last tick is not counted."""
        self._last = time.perf_counter()

    def close(self) -> dict[str, float]:
        """Returns the speed since the last call, and starts a new measurement.

        Returns:
          images_per_second, seconds_per_step and input_wait_share, if a step was counted.
          compile_seconds, the time of the first step, once.
        """
        speed = {} if self._compile is None else {'compile_seconds': self._compile}
        if self._steps:
            speed |= {
                'images_per_second': self._batch_size * self._steps / self._seconds,
                'seconds_per_step': self._seconds / self._steps,
                'input_wait_share': self._input_wait / self._seconds,
            }
        self._reset()
        return speed


class Journal:
    """Writes the log files, the TensorBoard events and the progress bar of one stage.

    Args:
      folder: <workdir>/<stage>.
      stage: its name.
      num_steps: the last step of the stage.
      start_step: the step from which this process trains.
      batch_size: global, for images per second.
      window: the open window of the checkpoint, {} at the start.
      enabled: False in all processes but the main process.
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

    def step(self, step: int, input_wait: float) -> None:
        """Counts a step that has ended, `input_wait` seconds of which it waited for input."""
        self.clock.tick(input_wait)
        self._progress.update(step)

    def close_window(self, step: int) -> None:
        """Writes the means of the training metrics since the last line, and the speed."""
        values = self.window.close()
        speed = self.clock.close()
        self._metrics.write(step, 'train', values)
        self._timing.write(step, speed)
        self._board.scalars(step, 'train', values)
        self._board.scalars(step, 'speed', speed)
        self._progress.update(step, values['loss'], speed.get('images_per_second'))

    def evaluated(self, step: int, scores: Scores) -> None:
        """Writes the scores of an evaluation, and shows the first three."""
        scalars = flat_scalars(scores)
        self._metrics.write(step, 'eval', scalars)
        self._board.scalars(step, 'eval', scalars)
        headline = [f'{k} {v:.4f}' for k, v in scores.items() if isinstance(v, float)][:3]
        self._progress.message(f'step {step}: ' + ', '.join(headline))

    def config(self, config: Mapping[str, Any]) -> None:
        """Shows the config in TensorBoard."""
        self._board.config(config)

    def close(self) -> None:
        for part in (self._metrics, self._timing, self._board, self._progress):
            part.close()
