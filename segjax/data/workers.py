"""Worker processes that read or compute examples: their start, and their end with the main process.

A worker lives as long as a lease file. The main process deletes the file to end its workers.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import signal
import tempfile
import threading
from collections.abc import Callable

import cv2


def make_lease() -> pathlib.Path:
    """Makes a lease file. Deleting the file ends the workers that were started with it."""
    handle, lease = tempfile.mkstemp(prefix='segjax_workers_')
    os.close(handle)
    return pathlib.Path(lease)


class Pool:
    """Worker processes that start when there is work, and end with the `with` block.

    num_workers  largest number of processes
    """

    def __init__(self, num_workers: int):
        self.num_workers = num_workers
        self._lease: pathlib.Path | None = None
        self._executor: concurrent.futures.Executor | None = None

    def __enter__(self) -> 'Pool':
        return self

    def __exit__(self, *_):
        if self._executor is not None:
            # Workers end without the lease, even in the middle of their work.
            self._lease.unlink(missing_ok=True)
            self._executor.shutdown(wait=False, cancel_futures=True)

    def submit(self, function: Callable, *arguments) -> concurrent.futures.Future:
        """Calls a function in a worker process.

        Args:
          function: of a module. It gets the lease as its last argument, and does nothing without
            the file.
          *arguments: further arguments, which can be pickled.
        """
        if self._executor is None:
            self._lease = make_lease()
            # A process starts when there is work and no process is idle.
            self._executor = concurrent.futures.ProcessPoolExecutor(
                self.num_workers,
                mp_context=multiprocessing.get_context('spawn'),
                initializer=prepare,
                initargs=(str(self._lease), 0.0),
            )
        return self._executor.submit(function, *arguments, self._lease)


def prepare(lease: str, grace: float) -> None:
    """Prepares a worker process, before its first example.

    Args:
      lease: path of the lease file.
      grace: seconds in which a worker may end by itself after the lease.
    """
    # Ctrl-C and preemption signals reach the whole process group. The main process handles them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(1)  # the config alone sets the number of threads
    threading.Thread(target=_exit_with_lease, args=(lease, grace), daemon=True).start()


def _exit_with_lease(lease: str, grace: float) -> None:
    """Ends this worker when the main process is gone or has removed the lease file.

    Without this thread, a worker would wait for ever to hand its result to a main process that was
    killed. And nothing would stop a worker that started while the main process ended its workers.
    """
    main = multiprocessing.parent_process()
    with contextlib.suppress(FileNotFoundError):
        while main.is_alive():
            os.utime(lease)  # also protects the file from cleaners of temporary folders
            main.join(timeout=0.2)
    # A worker that does not hang ends by itself in this time, and tidies up.
    main.join(timeout=grace)
    # grain's `close` waits until a worker has failed, and 0 would be no failure.
    os._exit(1)
