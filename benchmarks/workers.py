"""Processes that measure: started once, told line by line what to do (benchmarks/serving.py)."""

import contextlib
import json
import os
import pathlib
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
END_SECONDS = 10.0
"""Time that a worker has to end by itself."""


class WorkerError(Exception):
    """A command failed, or the worker ended or took too long. The message is one line."""


class Worker:
    """A process that answers commands.

    name  of the worker, for errors
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: pathlib.Path,
        variables: Mapping[str, str] | None = None,
    ):
        """Starts the process.

        Args:
          name: of the worker.
          command: program and arguments.
          log: file for all that it prints.
          variables: environment variables in addition to those of this process.
        """
        self.name = name
        self._log = log
        self._overdue = ''
        self._replies: queue.Queue[str] = queue.Queue()
        with log.open('ab') as file:
            self._process = subprocess.Popen(
                list(command),
                cwd=ROOT,
                env={**os.environ, **(variables or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                encoding='utf-8',
            )
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> 'Worker':
        return self

    def __exit__(self, *_):
        self.close()

    def _read(self) -> None:
        """Collects replies. An empty reply says that there are no more."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._replies.put(line)
        self._replies.put('')

    def ask(self, command: str, limit: float = 3600.0, **arguments: Any) -> Any:
        """Sends a command and returns its value.

        Args:
          command: name of the command.
          limit: seconds that it may take.
          **arguments: of the command, JSON values.

        Raises:
          WorkerError: the command failed, or the process ended or took too long.
        """
        assert self._process.stdin is not None
        if self._overdue:
            raise WorkerError(f'{self.name}: stopped, because {self._overdue}')
        try:
            self._process.stdin.write(json.dumps({'command': command, **arguments}) + '\n')
            self._process.stdin.flush()
            line = self._replies.get(timeout=limit)
        except BrokenPipeError:
            line = ''
        except queue.Empty:
            self._process.kill()
            self._overdue = f'{command} took more than {limit:.0f} s'
            raise WorkerError(f'{self.name}: {self._overdue}') from None

        # The end of the output, a line that is no reply, or a reply.
        if not line:
            code = self._process.wait(END_SECONDS)
            raise WorkerError(f'{self.name}: exit code {code} in {command} ({self._last_line()})')
        try:
            reply = json.loads(line)
            if 'error' not in reply:
                return reply['value']
        except (ValueError, KeyError, TypeError):
            raise WorkerError(f'{self.name}: no reply but {line.strip()[:160]!r}') from None
        raise WorkerError(f'{self.name}: {" ".join(reply["error"].split())[:300]}')

    def _last_line(self) -> str:
        """Returns the last line that the process printed."""
        lines = self._log.read_text(encoding='utf-8', errors='replace').strip().splitlines()
        return lines[-1][:160] if lines else 'nothing printed'

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
