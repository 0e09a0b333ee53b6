"""The processes of one run on several hosts: they join, compare what they see, and end together.

All of it goes through the key-value store of JAX's coordination service. Asking for a key can be given up. A
collective waits for ever for a process that took another way.

Once `join` has returned:
- A process that fails says so (`leave`). The remaining ones end within seconds, with its message and exit code.
- A process that vanishes (killed, power, network) is missed after LOST_SECONDS, and the remaining ones end. If it is
  process 0, which runs the service, JAX itself aborts the remaining ones at once, with exit code 134.
"""

import contextlib
import itertools
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
from jax._src import distributed

from segjax.errors import EXIT_WRONG, InputError

CONNECT_SECONDS = 300
"""How long processes wait for each other at the start."""
LOST_SECONDS = 40
"""How long a process may give no sign of life; JAX's own limit is 100."""
POLL_SECONDS = 1.0
LEAVE_SECONDS = 10.0
"""How long process 0, which runs the service, waits for the remaining processes to leave."""

_FAILURE, _LEFT, _ALIVE = 'segjax/failure', 'segjax/left', 'segjax/alive'
_leaving = threading.Lock()
_places = itertools.count()


class Fact(NamedTuple):
    """What a process sees, as text, and how to mend a difference between processes."""

    value: str
    fix: str


def joined() -> bool:
    """Returns whether this process is one of several."""
    return (
        distributed.global_state.client is not None and distributed.global_state.num_processes > 1
    )


def join(initialize: Callable[..., None], where: str) -> None:
    """Connects this process with the remaining ones, and begins to watch them.

    Args:
      initialize: `jax.distributed.initialize` with its arguments bound.
      where: flag that asked for it, for errors.

    Raises:
      InputError: the port of the coordinator cannot be used.
    """
    with _giving_up(where):
        try:
            # Ours is the shorter limit: JAX ends the process with the stack of its library.
            initialize(initialization_timeout=2 * CONNECT_SECONDS)
        except RuntimeError as error:
            got = str(error).splitlines()[0]
            fix = 'another port, the same for all processes'
            raise InputError(
                where, got=got, expected='a free port of the host of process 0', fix=fix
            ) from error
    if joined():
        threading.Thread(
            target=_watch, args=(distributed.global_state.client,), daemon=True
        ).start()


@contextlib.contextmanager
def _giving_up(where: str) -> Iterator[None]:
    """Ends the process if what happens inside takes longer than CONNECT_SECONDS."""

    def give_up():
        error = InputError(
            where,
            got=f'not all processes have met within {CONNECT_SECONDS} s',
            expected='as many processes as announced, all with the address of process 0',
            fix='look whether all of them run, and whether a firewall closes the port of process 0',
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


def tell(name: str, value: str) -> None:
    """Makes a text known to all processes, once."""
    distributed.global_state.client.key_value_set(name, value)


def hear(name: str) -> str:
    """Returns a text that a process makes known by `tell`. Waits for it as long as all processes live."""
    while (value := _look(name)) is None:
        time.sleep(0.1)
    return value


def _look(name: str) -> str | None:
    try:
        return distributed.global_state.client.key_value_try_get(name)
    except jax.errors.JaxRuntimeError as error:
        if 'NOT_FOUND' in str(error):
            return None
        raise


def place() -> str:
    """Returns a new name for what processes tell each other. All must call it at the same places."""
    return f'segjax/place/{next(_places)}'


def compare(facts: Mapping[str, Fact]) -> None:
    """Raises InputError, in every process, unless all see the same facts. All must call it at the same places."""
    if not joined():
        return
    state = distributed.global_state
    here = place()
    mine = {'host': platform.node(), 'facts': {name: fact.value for name, fact in facts.items()}}
    tell(f'{here}/{state.process_id}', json.dumps(mine))
    first = json.loads(hear(f'{here}/0'))
    for process in range(1, state.num_processes):
        other = json.loads(hear(f'{here}/{process}'))
        names = sorted({*first['facts'], *other['facts']})
        differing = [name for name in names if first['facts'].get(name) != other['facts'].get(name)]
        if differing:
            raise _disagreement(facts, process, first, other, differing)


def _disagreement(
    facts: Mapping[str, Fact], process: int, first, other, differing: list[str]
) -> InputError:
    """Returns the error for a process that sees something else than process 0."""

    def seen(content):
        shown = '; '.join(
            f'{name}: {content["facts"].get(name, "nothing")}' for name in differing[:6]
        )
        more = len(differing) - 6
        return shown + (f'; and {more} more' if more > 0 else '') + f' (host {content["host"]})'

    fixes = dict.fromkeys(facts[name].fix for name in differing if name in facts)
    return InputError(
        f'process {process} does not see what process 0 sees',
        got=seen(other),
        expected=seen(first),
        fix='; '.join(fixes),
    )


def listen() -> None:
    """Gives the watching thread the time to learn that another process has failed, and why."""
    if joined():
        time.sleep(3 * POLL_SECONDS)


def leave(code: int, message: str) -> None:
    """Ends this process at once, and tells the remaining ones why. Returns in a run of one process.

    The usual exit would wait for the remaining processes, which may wait for this one.

    Args:
      code: exit code, of all processes.
      message: which the remaining processes print.
    """
    if not joined():
        return
    with _leaving:
        state = distributed.global_state
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process was faster
            failure = {'process': state.process_id, 'code': code, 'message': message}
            state.client.key_value_set(_FAILURE, json.dumps(failure))
        _exit(state.client, code)


def _exit(client, code: int) -> None:
    """Ends this process; process 0 ends last."""
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
    """Gives signs of life, and ends this process if another one has failed or gives none."""
    state = distributed.global_state
    seen = {str(process): ('', time.monotonic()) for process in range(state.num_processes)}
    count = 0
    while state.client is client:  # until the usual exit has begun
        try:
            count += 1
            client.key_value_set(f'{_ALIVE}/{state.process_id}', str(count), allow_overwrite=True)
            left = {key.rsplit('/', 1)[-1] for key, _ in client.key_value_dir_get(f'{_LEFT}/')}
            for key, value in client.key_value_dir_get(f'{_ALIVE}/'):
                process = key.rsplit('/', 1)[-1]
                if process in left or seen[process][0] != value:
                    seen[process] = (value, time.monotonic())
            failure = _look(_FAILURE)
        except jax.errors.JaxRuntimeError:
            return  # the service is gone: JAX ends this process itself, unless the run is over
        lost = [
            process for process, (_, when) in seen.items() if time.monotonic() - when > LOST_SECONDS
        ]
        if failure is not None:
            _follow(client, **json.loads(failure))
        elif lost:
            message = (
                f'gave no sign of life for {LOST_SECONDS} s; it was killed, or its network failed'
            )
            _follow(client, int(lost[0]), EXIT_WRONG, message)
        time.sleep(POLL_SECONDS)


def _follow(client, process: int, code: int, message: str) -> None:
    """Ends this process because another one has ended."""
    with _leaving:
        if process != distributed.global_state.process_id:
            shown = message.replace('\n', '\n  ')
            text = f'error: process {process} has ended, so this process ends, too\n  {shown}\n'
            with contextlib.suppress(OSError):
                os.write(2, text.encode())  # the main thread may hold the lock of sys.stderr
        _exit(client, code)
