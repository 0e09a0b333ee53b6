"""What a user sees first: every experiment's :smoke, and the first command of the README, which is one of them."""

import dataclasses
import functools
import json
import re

import compiler
import pytest
from readme import README, REPOSITORY, commands, flag, launch

from segjax import config_file, driver, parallel

FILES = sorted((REPOSITORY / 'configs').glob('*.py'))


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.name)
def test_smoke_trains_in_one_trace_of_each_function(path, tmp_path, monkeypatch):
    traced = []
    spmd = parallel.Topology.spmd

    def counting(self, fn, **options):
        @functools.wraps(fn)
        def counted(*args):
            traced.append(fn)
            return fn(*args)

        return spmd(self, counted, **options)

    one_device = parallel.topology('pmap', 1)  # compiles in half the time
    monkeypatch.setattr(parallel, 'topology', lambda mode: dataclasses.replace(one_device, mode=mode))
    monkeypatch.setattr(parallel.Topology, 'spmd', counting)
    config = config_file.load(f'{path}:smoke')
    scores = driver.train(config, str(tmp_path))
    assert scores and (tmp_path / 'report.html').exists()
    steps = config.train.num_steps
    assert steps > 2, 'one step cannot show that the second is not traced anew'
    assert traced and len(traced) == len(set(traced)), [fn.__qualname__ for fn in traced]
    names = [fn.__name__ for fn in traced]
    assert names.count('train_step') == names.count('eval_step') == len(scores)


def test_the_first_command_trains_and_ends_with_a_report(tmp_path):
    """With :smoke instead of :quick, which is the same system in seconds."""
    first = commands()[0]
    assert flag(first, 'config').endswith(':quick')
    words = [word.replace(':quick', ':smoke').replace('runs/first', str(tmp_path / 'first')) for word in first]
    done = launch(words, XLA_FLAGS=compiler.QUICKLY)  # finds the programs of the test above
    assert done.returncode == 0, done.stderr[-2000:]
    report = (tmp_path / 'first/report.html').read_text()
    for promised in ('mIoU', 'commonest', 'onfusion', 'images/s'):
        assert promised in report, promised
    for name in ('config.json', 'scores.json', 'report.html'):
        assert (tmp_path / 'first' / name).is_file()
    (stage,) = json.loads((tmp_path / 'first/scores.json').read_text())
    for name in re.search(r'per stage,\s+(.*?)\.\n\n', README, re.DOTALL)[1].replace('\n', ' ').split('`')[1::2]:
        assert (tmp_path / 'first' / stage / name).exists(), name
