"""The worker's side of the line protocol: commands in, replies out, a JSON object a line.

    {"command": "call", "part": "train"}    ->    {"value": {"seconds": 0.81, ...}}
    {"command": "prepare", "net": "resnet"} ->    {"error": "KeyError: 'resnet'"}

A worker ends when its input ends. The module needs the standard library alone, because torch's
Python imports it too.
"""

import json
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any


def serve(commands: Mapping[str, Callable[..., Any]]) -> None:
    """Answers the commands on standard input until it ends.

    Args:
      commands: name -> function of the other entries of a line. It returns a JSON value.
    """
    # Libraries print what they like. Their prints go to the log, and standard output has replies.
    with os.fdopen(os.dup(1), 'w', encoding='utf-8') as replies:
        os.dup2(2, 1)
        for line in sys.stdin:
            arguments = json.loads(line)
            try:
                reply = {'value': commands[arguments.pop('command')](**arguments)}
            except Exception as error:
                traceback.print_exc()
                reply = {'error': f'{type(error).__name__}: {error}'}
            replies.write(json.dumps(reply) + '\n')
            replies.flush()


def use_cores(number: int) -> None:
    """Binds this process to the first `number` cores that it may use. 0 changes nothing."""
    if number and hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])


def timed(call: Callable[[], Any], wait: Callable[[Any], Any]) -> dict[str, float]:
    """Returns the wall-clock seconds of a call, and the seconds of all cores of this process.

    Args:
      call: starts the work.
      wait: gets the result of `call` and waits until it is there.
    """
    cpu_start = time.process_time()
    start = time.perf_counter()
    wait(call())
    seconds = time.perf_counter() - start
    return {'seconds': seconds, 'cpu_seconds': time.process_time() - cpu_start}


def peak_memory() -> int | None:
    """Returns the largest resident memory of this process in bytes. None: the system tells none."""
    # ru_maxrss would include the process that started this worker.
    status = pathlib.Path('/proc/self/status')
    if not status.exists():
        return None
    for line in status.read_text(encoding='ascii', errors='replace').splitlines():
        if line.startswith('VmHWM:'):
            return 1024 * int(line.split()[1])
    return None
