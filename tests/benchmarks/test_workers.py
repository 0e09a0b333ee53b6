"""The line protocol between a bench and its workers, with a worker that measures nothing."""

import pathlib
import sys

import pytest

from benchmarks import nets, serving
from benchmarks.workers import ROOT, Worker, WorkerError

FAKE = pathlib.Path(__file__).with_name('fake_worker.py')


@pytest.fixture
def worker(tmp_path):
    with start(tmp_path) as started:
        yield started


def start(folder, *arguments, name='fake'):
    command = [sys.executable, str(FAKE), *arguments]
    return Worker(name, command, folder / f'{name}.log', {'PYTHONPATH': str(ROOT)})


def test_a_worker_answers_and_its_prints_go_to_the_log(worker, tmp_path):
    assert worker.ask('prepare', seconds=[0.5, 0.25]) == {'calls': 2}
    assert worker.ask('call', part='train') == {'seconds': 0.5, 'cpu_seconds': 1.0}
    worker.close()
    assert (tmp_path / 'fake.log').read_text() == 'a print of a library\n'


def test_a_command_that_fails_leaves_the_worker_alive(worker):
    with pytest.raises(WorkerError, match=r'^fake: IndexError: pop from empty list$'):
        worker.ask('call', part='train')
    with pytest.raises(WorkerError, match=r"^fake: KeyError: 'unknown'$"):
        worker.ask('unknown')
    assert worker.ask('prepare', seconds=[]) == {'calls': 0}


def test_a_worker_that_dies_says_its_last_words(worker):
    with pytest.raises(WorkerError, match=r'^fake: exit code 9 in call \(out of memory\)$'):
        worker.ask('call', part='exit')
    with pytest.raises(WorkerError, match='exit code 9'):
        worker.ask('call', part='train')


def test_a_worker_that_hangs_is_ended(worker):
    with pytest.raises(WorkerError, match='fake: call took more than 0 s'):
        worker.ask('call', limit=0.2, part='hang')
    with pytest.raises(WorkerError, match='fake: stopped, because call took more than 0 s'):
        worker.ask('call', part='train')


def test_a_line_that_is_no_reply_is_an_error(tmp_path):
    with (
        start(tmp_path, 'chatter') as worker,
        pytest.raises(WorkerError, match="no reply but 'no JSON'"),
    ):
        worker.ask('prepare', seconds=[])


def test_sides_take_turns_and_a_side_that_dies_does_not_stop_the_other(tmp_path):
    with start(tmp_path, name='a') as a, start(tmp_path, name='b') as b:
        a.ask('prepare', seconds=[9.0, 1.0, 2.0, 3.0])
        b.ask('prepare', seconds=[9.0, 4.0])  # its third call fails
        times, errors = nets.take_turns({'a': a, 'b': b}, 'train', 3, 1, limit=10.0)
    assert times == {'a': {'seconds': [1.0, 2.0, 3.0], 'cpu_seconds': [2.0, 4.0, 6.0]}}
    assert errors == {'b': 'b: IndexError: pop from empty list'}


def test_every_second_round_runs_in_reverse_order():
    order = []

    class Recorder:
        def __init__(self, name):
            self.name = name

        def ask(self, command, limit, part):
            order.append(self.name)
            return {'seconds': 1.0, 'cpu_seconds': 1.0}

    nets.take_turns({name: Recorder(name) for name in 'abc'}, 'train', 2, 1, limit=1.0)
    assert ''.join(order) == 'abccbaabc'


def test_a_call_is_timed_until_its_result_is_there():
    steps = []
    measured = serving.timed(lambda: steps.append('call') or 7, steps.append)
    assert steps == ['call', 7]
    assert 0 <= measured['seconds'] < 1 and 0 <= measured['cpu_seconds'] < 1


@pytest.mark.skipif(not pathlib.Path('/proc/self/status').exists(), reason='no /proc')
def test_peak_memory_stays_when_memory_is_given_back():
    block = b'x' * (300 << 20)
    del block
    assert 300 << 20 < serving.peak_memory() < 1 << 40
