"""The processes of one run on several hosts. They join, compare facts, and end together.

Processes communicate through the key-value store of JAX's coordination service. A process can stop
asking for a key. A collective would wait for ever for a process that took another branch.

Once `join` has returned:
- A process that fails tells why (`leave`). The remaining processes end within seconds, with the
  message and exit code of the failed process.
- A process that vanishes (killed, power, network) is missed after LOST_SECONDS. Then the remaining
  processes end. If process 0 vanishes, which runs the service, JAX itself aborts the remaining
  processes at once, with exit code 134.
"""

import contextlib
import itertools
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax._src import distributed

from segjax.errors import EXIT_WRONG, InputError, first_line

CONNECT_SECONDS = 300
"""Time that processes wait for each other at the start."""
LOST_SECONDS = 40
"""Time after which a process without a sign of life is lost. JAX's own limit is 100."""
POLL_SECONDS = 1.0
"""Time between two signs of life."""
LEAVE_SECONDS = 10.0
"""Time that process 0, which runs the service, waits for the remaining processes to leave."""

_FAILURE, _LEFT, _ALIVE = 'segjax/failure', 'segjax/left', 'segjax/alive'
_leaving = threading.Lock()
_places = itertools.count()


class Fact(NamedTuple):
    """A fact of a process, as text, and how to mend a difference between processes."""

    value: str
    fix: str


def joined() -> bool:
    """Returns whether this process is one of several."""
    return (
        distributed.global_state.client is not None and distributed.global_state.num_processes > 1
    )


def join(initialize: Callable[..., None], where: str) -> None:
    """Connects this process with all processes of the run, and begins to watch them.

    Args:
      initialize: `jax.distributed.initialize` with its arguments bound.
      where: flag that asks for several processes, for errors.

    Raises:
      InputError: the port of the coordinator cannot be used.
    """
    with _giving_up(where):
        try:
            # `_giving_up` has the shorter limit. At its own limit, JAX would print the stack of its
            # library and end the process.
            initialize(initialization_timeout=2 * CONNECT_SECONDS)
        except RuntimeError as error:
            fix = 'another port, the same for all processes'
            raise InputError(
                where,
                got=first_line(error),
                expected='a free port of the host of process 0',
                fix=fix,
            ) from error
    if joined():
        threading.Thread(
            target=_watch, args=(distributed.global_state.client,), daemon=True
        ).start()


@contextlib.contextmanager
def _giving_up(where: str) -> Iterator[None]:
    """Ends the process if the body of the `with` takes longer than CONNECT_SECONDS."""

    def give_up() -> None:
        error = InputError(
            where,
            got=f'not all processes have met within {CONNECT_SECONDS} s',
            expected='as many processes as announced, all with the address of process 0',
            fix='check that all of them run, and that no firewall closes the port of process 0',
        )
        print(f'error: {error}', file=sys.stderr, flush=True)
        os._exit(EXIT_WRONG)

    timer = threading.Timer(CONNECT_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _client() -> Any:
    """Returns the connection to the key-value store. To be called after `join` only."""
    return distributed.global_state.client


def tell(name: str, value: str) -> None:
    """Tells a text to all processes. A name can be used once."""
    _client().key_value_set(name, value)


def hear(name: str) -> str:
    """Returns a text that a process tells by `tell`. Waits for it as long as all processes live."""
    while (value := _told(name)) is None:
        time.sleep(0.1)
    return value


def _told(name: str) -> str | None:
    """Returns a text that a process has told, or None."""
    try:
        return _client().key_value_try_get(name)
    except jax.errors.JaxRuntimeError as error:
        if 'NOT_FOUND' in str(error):
            return None
        raise


def place() -> str:
    """Returns a new name for `tell`. All processes must call `place` at the same places."""
    return f'segjax/place/{next(_places)}'


def compare(facts: Mapping[str, Fact]) -> None:
    """Compares the facts of all processes. All processes must call it at the same places.

    Raises:
      InputError: a process has other facts than process 0. Every process raises it.
    """
    if not joined():
        return
    state = distributed.global_state
    name = place()
    own = {'host': platform.node(), 'facts': {key: fact.value for key, fact in facts.items()}}
    tell(f'{name}/{state.process_id}', json.dumps(own))
    first = json.loads(hear(f'{name}/0'))
    for process in range(1, state.num_processes):
        other = json.loads(hear(f'{name}/{process}'))
        keys = sorted({*first['facts'], *other['facts']})
        differing = [key for key in keys if first['facts'].get(key) != other['facts'].get(key)]
        if differing:
            raise _disagreement(facts, process, first, other, differing)


def _disagreement(
    facts: Mapping[str, Fact],
    process: int,
    first: Mapping[str, Any],
    other: Mapping[str, Any],
    differing: Sequence[str],
) -> InputError:
    """Returns the error for a process whose facts differ from the facts of process 0.

    Args:
      facts: of this process.
      process: number of the other process.
      first: {'host': name, 'facts': {key: value}} of process 0.
      other: the same of the other process.
      differing: keys of the differing facts.
    """
    fixes = dict.fromkeys(facts[key].fix for key in differing if key in facts)
    return InputError(
        f'process {process} does not see what process 0 sees',
        got=_shown(other, differing),
        expected=_shown(first, differing),
        fix='; '.join(fixes),
    )


def _shown(content: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Returns the first facts of a process, and its host, for an error."""
    facts = content['facts']
    shown = '; '.join(f'{key}: {facts.get(key, "nothing")}' for key in keys[:6])
    if len(keys) > 6:
        shown += f'; and {len(keys) - 6} more'
    return f'{shown} (host {content["host"]})'


def listen() -> None:
    """Waits until the watching thread can know whether another process has failed, and why."""
    if joined():
        time.sleep(3 * POLL_SECONDS)


def leave(code: int, message: str) -> None:
    """Ends this process at once, and tells the remaining processes why.

    It returns in a run of a single process. The usual exit would wait for the remaining processes,
    which may wait for this process.

    Args:
      code: exit code of all processes.
      message: text that the remaining processes print.
    """
    if not joined():
        return
    with _leaving:
        state = distributed.global_state
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process was faster
            failure = {'process': state.process_id, 'code': code, 'message': message}
            _client().key_value_set(_FAILURE, json.dumps(failure))
        _exit(_client(), code)


def _exit(client, code: int) -> None:
    """Ends this process. Process 0 ends last."""
    state = distributed.global_state
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.key_value_set(f'{_LEFT}/{state.process_id}', '')
        end = time.monotonic() + LEAVE_SECONDS
        while state.process_id == 0 and time.monotonic() < end:
            if len(client.key_value_dir_get(f'{_LEFT}/')) >= state.num_processes:
                break
            time.sleep(0.1)
    os._exit(code)


def _watch(client) -> None:
    """Gives signs of life, and ends this process if another process has failed or is lost.

    A sign of life is a new number under the key of the process.
    """
    state = distributed.global_state
    # {process: (its last sign of life, the time when the sign arrived)}
    signs = {str(process): ('', time.monotonic()) for process in range(state.num_processes)}
    count = 0
    while state.client is client:  # until the usual exit has begun
        try:
            count += 1
            client.key_value_set(f'{_ALIVE}/{state.process_id}', str(count), allow_overwrite=True)
            left = {key.rsplit('/', 1)[-1] for key, _ in client.key_value_dir_get(f'{_LEFT}/')}
            for key, value in client.key_value_dir_get(f'{_ALIVE}/'):
                process = key.rsplit('/', 1)[-1]
                if process in left or signs[process][0] != value:
                    signs[process] = (value, time.monotonic())
            failure = _told(_FAILURE)
        except jax.errors.JaxRuntimeError:
            return  # the service has ended: JAX ends this process, unless the run is over
        now = time.monotonic()
        lost = [process for process, (_, arrival) in signs.items() if now - arrival > LOST_SECONDS]
        if failure is not None:
            _follow(client, **json.loads(failure))
        elif lost:
            message = (
                f'gave no sign of life for {LOST_SECONDS} s; it was killed, or its network failed'
            )
            _follow(client, int(lost[0]), EXIT_WRONG, message)
        time.sleep(POLL_SECONDS)


def _follow(client, process: int, code: int, message: str) -> None:
    """Ends this process because another process has ended."""
    with _leaving:
        if process != distributed.global_state.process_id:
            shown = message.replace('\n', '\n  ')
            text = f'error: process {process} has ended, so this process ends\n  {shown}\n'
            with contextlib.suppress(OSError):
                os.write(2, text.encode())  # the main thread may hold the lock of sys.stderr
        _exit(client, code)
