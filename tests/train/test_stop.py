"""Processes that are told to stop during work that cannot be interrupted."""

import os
import signal
import subprocess
import sys
import time

import pytest

from segjax.errors import InputError
from segjax.train.stop import StopSignal

PROGRAM = """
import sys, threading, time
from segjax.train import stop as stops
with stops.StopSignal() as stop:
    {body}
"""
LOCKED = "lock = threading.Lock(); lock.acquire(); print('ready', flush=True); lock.acquire()"


def start(body, seconds='0.5', ignored=''):
    environment = {**os.environ, 'SEGJAX_STOP_SECONDS': seconds}
    program = PROGRAM.format(body=body)
    # Tests in the background of a script inherit that SIGINT is ignored.
    first = 'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)'
    if ignored:
        first += f'; signal.signal(signal.{ignored}, signal.SIG_IGN)'
    program = first + program
    command = [sys.executable, '-c', program]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == 'ready\n'
    return process


def end(process, seconds=20):
    try:
        return process.communicate(timeout=seconds)
    finally:
        process.kill()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_waits_for_ever_ends(number):
    process = start(LOCKED)
    process.send_signal(number)
    _, err = end(process)
    assert process.returncode == 75, err
    assert 'preempted: told to stop, and 0.5 s later still at work' in err
    assert 'SEGJAX_STOP_SECONDS' in err and 'Traceback' not in err


def test_a_loop_that_asks_is_left_to_its_end():
    process = start(
        "print('ready', flush=True)\n"
        '    while not stop.reached(): time.sleep(0.01)\n'
        '    for _ in range(20): time.sleep(0.1); stop.reached()\n'
        "    print('saved', flush=True); sys.exit(3)"
    )
    process.send_signal(signal.SIGTERM)
    out, err = end(process)
    assert (process.returncode, out) == (3, 'saved\n'), err


def test_a_checkpoint_that_is_being_written_is_waited_for():
    process = start(
        'began = time.monotonic(); stop.protect(lambda: time.monotonic() - began < 2)\n    '
        + LOCKED,
        seconds='0.2',
    )
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    end(process)
    assert process.returncode == 75
    assert time.monotonic() - began > 1


def test_a_signal_that_was_ignored_before_stays_ignored():
    process = start(
        "import os, signal; print('ready', flush=True); os.kill(os.getpid(), signal.SIGINT)\n"
        '    time.sleep(1); print(stop.reached(), flush=True); '
        'os.kill(os.getpid(), signal.SIGTERM)\n'
        '    print(stop.reached(), flush=True)',
        ignored='SIGINT',
    )
    out, err = end(process)
    assert (process.returncode, out) == (0, 'False\nTrue\n'), err


def test_nothing_ends_after_the_run_and_signals_are_as_before():
    before = signal.getsignal(signal.SIGTERM)
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reached()
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.set_wakeup_fd(wakeup) == wakeup


@pytest.mark.parametrize('text', ['', 'soon', '0', '-1', 'nan', 'inf'])
def test_the_seconds_are_a_number(monkeypatch, text):
    monkeypatch.setenv('SEGJAX_STOP_SECONDS', text)
    with pytest.raises(InputError, match='SEGJAX_STOP_SECONDS=45'):
        StopSignal()
