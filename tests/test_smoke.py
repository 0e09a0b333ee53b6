"""The first command of the README, and the variant :smoke of every experiment."""

import dataclasses
import functools
import json
import re

import pytest
import shallow_nets
from absl import flags
from readme import README, REPOSITORY, commands, flag, launch

from segjax import main
from segjax.config import config_file
from segjax.core import parallel
from segjax.train import driver

FIRST, OF_FIRST = commands()[0], flag(commands()[0], 'config')
MOVES = {'learned_dilation.py': ('factor_move',)}
"""Metrics that are above 0 where an experiment does what it is for."""
ONLY_EVALUATED = {'membership.py': 1}
"""Numbers of stages that train nothing."""
OTHERS = sorted(path for path in (REPOSITORY / 'configs').glob('*.py') if path.name not in OF_FIRST)


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    shallow_nets.use(monkeypatch)


@pytest.fixture
def traced(monkeypatch, in_threads):
    """Returns the list of mapped functions, with an entry for each trace."""
    functions = []
    spmd = parallel.Topology.spmd

    def counting(self, fn, **options):
        @functools.wraps(fn)
        def counted(*args):
            functions.append(fn)
            return fn(*args)

        return spmd(self, counted, **options)

    one_device = parallel.topology('pmap', 1)  # compiles in half the time

    def topology(mode, options=()):
        return dataclasses.replace(one_device, mode=mode, options=options)

    monkeypatch.setattr(parallel, 'topology', topology)
    monkeypatch.setattr(parallel.Topology, 'spmd', counting)
    return functions


def assert_traced_once(traced, scores, only_evaluated=0):
    assert len(traced) == len(set(traced)), [fn.__qualname__ for fn in traced]
    names = [fn.__name__ for fn in traced]
    assert names.count('evaluate') == len(scores) > 0
    assert names.count('train_step') == len(scores) - only_evaluated


@pytest.mark.parametrize('path', OTHERS, ids=lambda p: p.name)
def test_smoke_trains_in_one_trace_of_each_function(path, tmp_path, traced):
    config = config_file.load(f'{path}:smoke')
    assert config.train.num_steps > 2, 'one step cannot show that the second is not traced anew'
    scores = driver.train(config, str(tmp_path))
    assert (tmp_path / 'report.html').exists()
    assert_traced_once(traced, scores, ONLY_EVALUATED.get(path.name, 0))
    for name in MOVES.get(path.name, ()):
        lines = [
            json.loads(line) for file in tmp_path.glob('*/metrics.jsonl') for line in file.open()
        ]
        values = [line[name] for line in lines if name in line]
        assert values and all(value > 0 for value in values), f'{name}: {values}'


def test_the_first_command_trains_and_ends_with_a_report(tmp_path, traced):
    """Runs :smoke instead of :quick, the same system in seconds, in this process."""
    assert OF_FIRST.endswith(':quick')
    words = [
        word.replace(':quick', ':smoke').replace('runs/first', str(tmp_path / 'first'))
        for word in FIRST
    ]
    dry = launch(words, '--dry-run')
    assert dry.returncode == 0, dry.stderr
    _, _, arguments = dry.stdout.splitlines()[-1].partition(' -m segjax.main ')
    for item in main.FLAGS:
        flags.FLAGS[item.name].unparse()
    main.main(main.parse_arguments(['segjax.main', *arguments.split()]))

    report = (tmp_path / 'first/report.html').read_text()
    for promised in ('mIoU', 'commonest', 'onfusion', 'images/s'):
        assert promised in report, promised
    for name in ('config.json', 'scores.json', 'report.html'):
        assert (tmp_path / 'first' / name).is_file()
    panels = [
        json.loads(path.read_text())['panels']
        for path in (tmp_path / 'first').glob('*/pictures/*/info.json')
    ]
    assert panels and all(
        names[:4] == ['image', 'prediction', 'truth', 'errors'] for names in panels
    )
    scores = json.loads((tmp_path / 'first/scores.json').read_text())
    assert_traced_once(traced, scores)
    (stage,) = scores
    for name in (
        re.search(r'per stage,\s+(.*?)\.\n\n', README, re.DOTALL)[1]
        .replace('\n', ' ')
        .split('`')[1::2]
    ):
        assert (tmp_path / 'first' / stage / name).exists(), name
