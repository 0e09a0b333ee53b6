"""Stops a run in order when it is told to: by SIGTERM, or by the first Ctrl-C."""

import os
import select
import signal
import threading
import time
from collections.abc import Callable

import jax

from segjax.core import parallel, processes
from segjax.errors import EXIT_PREEMPTED, InputError

STOP_SECONDS = 'SEGJAX_STOP_SECONDS'
"""Environment variable: for how long a process that was told to stop may run without asking."""
GRACE_SECONDS = 45
_END = b'\0'


class Preempted(Exception):
    """SIGTERM arrived. The state was saved, and the same command resumes."""


class PreemptedAlone(Preempted):
    """SIGTERM arrived, and the remaining processes of the run do not know of it."""


class StopSignal:
    """Turns SIGTERM and the first Ctrl-C into a question that the run asks.

    The run can then save and leave in order. A whole run or table shares one object: a signal
    between two stages, or two runs, must not get lost.

    It is enough to tell one of several processes. All processes must leave at the same step, so
    they agree over the network at every `AGREE_EVERY`th question.

    Guarantee. A process that was told to stop and has not asked for $SEGJAX_STOP_SECONDS (default:
    GRACE_SECONDS) ends with exit code 75, whatever it waits for: a compiler, another process, a
    file system. Only a checkpoint that is being written is waited for. The newest checkpoint stays
    whole, and the same command resumes from it.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)
    AGREE_EVERY = 8

    def __init__(self):
        self._grace = stop_seconds()
        self._received = False
        self._agreed = False
        self._asked = 0
        self._told: float | None = None  # time of the signal
        self._alive = 0.0  # time of the run's last question, or of its last checkpoint
        self._is_saving: Callable[[], bool] = lambda: False

    def __enter__(self):
        # A signal that was ignored before stays ignored: scripts start jobs in the background so.
        heard = [number for number in self.SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._receive) for number in heard}
        # Python runs a handler only between two of its instructions. The byte arrives at once.
        self._inbox, self._outbox = os.pipe()
        os.set_blocking(self._outbox, False)
        self._wakeup = signal.set_wakeup_fd(self._outbox, warn_on_full_buffer=False)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.write(self._outbox, _END)
        self._watcher.join()
        os.close(self._inbox)
        os.close(self._outbox)

    def protect(self, is_saving: Callable[[], bool]) -> None:
        """Keeps the process alive while `is_saving` is true. Replaces the function given before."""
        self._is_saving = is_saving

    def _receive(self, number, _):
        self._received = True
        # A second Ctrl-C interrupts at once.
        if signal.SIGINT in self._previous:
            signal.signal(signal.SIGINT, self._previous[signal.SIGINT])

    def check_preparing(self) -> None:
        """Raises PreemptedAlone if this process was told to leave while it prepares data.

        Processes do not agree here: one process prepares, and the remaining processes wait for it.
        """
        if self._received:
            raise PreemptedAlone('the data set is not prepared completely')

    def reached(self) -> bool:
        """Returns whether to save and leave now. All processes must ask at the same places."""
        self._alive = time.monotonic()
        if jax.process_count() == 1:
            return self._received
        self._asked += 1
        if self._asked % self.AGREE_EVERY == 0 and not self._agreed:
            self._agreed = parallel.in_any_process(self._received)
        return self._agreed

    def _watch(self) -> None:
        """Ends a process that was told to stop and does not ask. Runs in a thread of its own."""
        while True:
            ready, _, _ = select.select([self._inbox], [], [], min(1.0, self._grace / 4))
            numbers = os.read(self._inbox, 64) if ready else b''
            if _END in numbers:
                return
            if self._told is None and set(numbers) & set(self.SIGNALS):
                self._told = time.monotonic()
            if self._is_saving():
                self._alive = time.monotonic()
            if self._told is None:
                continue
            if time.monotonic() - max(self._told, self._alive) > self._grace:
                self._end()

    def _end(self) -> None:
        """Ends this process and tells the remaining processes why."""
        message = (
            f'told to stop, and {self._grace:g} s later still at work on something that cannot be '
            'interrupted; everything after the newest checkpoint is lost. '
            f'${STOP_SECONDS} is the time to wait'
        )
        # The main thread may hold the lock of sys.stderr.
        os.write(2, f'preempted: {message}; the same command resumes\n'.encode())
        processes.leave(EXIT_PREEMPTED, message)
        os._exit(EXIT_PREEMPTED)


def stop_seconds() -> float:
    """Returns the seconds of $SEGJAX_STOP_SECONDS.

    Raises:
      InputError: the variable holds no number above 0.
    """
    text = os.environ.get(STOP_SECONDS, str(GRACE_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float('inf'):
        raise InputError(
            f'${STOP_SECONDS}', got=repr(text), expected='seconds > 0', fix=f'{STOP_SECONDS}=45'
        )
    return seconds
