"""Tests that the start of a row is part of the row."""

import pathlib
import shutil

import numpy as np
import pytest
from paper_table import FILE, RESULTS, runs, start

from segjax import config as config_lib
from segjax import pretrained
from segjax.core import files
from segjax.errors import InputError
from segjax.modes.table import numbers, starts
from segjax.modes.table.spec import Claim, Row, Table
from segjax.train import driver, initialization


@pytest.fixture
def weights(tmp_path):
    """Writes two files of different weights, and a copy of the first file under another name."""
    folder = tmp_path / 'weights'
    folder.mkdir()
    for name, value in (('a', 1.0), ('copy_of_a', 1.0), ('b', 2.0)):
        # The naming of a release that is recognised by these tensors.
        tensors = {
            'encoder.initial_block.conv.weight': np.full((13, 3, 3, 3), value, np.float32),
            'decoder.output_conv.weight': np.full((16, 20, 2, 2), value, np.float32),
        }
        pretrained.write(str(folder / f'{name}.npz'), tensors)
    return folder


@pytest.fixture
def begun(trained, weights, monkeypatch):
    """Extends `trained`: the replaced training also writes start.json."""
    monkeypatch.setattr(
        pretrained, 'open_weights', lambda init: pretrained.Weights(init.path, read(init.path), 'x')
    )

    def read(path):
        return pretrained.read(path)

    def train(config, workdir, stop, original=driver.train):
        original(config, workdir, stop)
        init_from = config.init_from.to_dict()
        digest = (
            initialization.digest(initialization.reader(config.init_from)())
            if config.init_from.path
            else ''
        )
        content = {'stages': ['first', 'last'], 'init_from': init_from, 'digest': digest}
        files.write_json(pathlib.Path(workdir) / 'start.json', content)

    monkeypatch.setattr(driver, 'train', train)
    return trained


def from_file(path) -> list[str]:
    return [f'.:init_from.path={path}']


def test_a_row_that_was_trained_from_another_start_is_another_row(table_file, begun, weights):
    start(table_file, seeds='0', overrides=from_file(weights / 'a.npz'))
    begun.clear()
    for overrides in ([], from_file(weights / 'b.npz')):
        with pytest.raises(
            InputError, match=r'base/seed_0\n.*another config: init_from.path: .*a.npz'
        ):
            start(table_file, seeds='0', overrides=overrides)
    assert begun == []


def test_a_row_without_a_start_does_not_become_a_row_with_one(table_file, begun, weights):
    start(table_file, seeds='0')
    with pytest.raises(InputError, match=r"init_from.path: '', now .*a.npz"):
        start(table_file, seeds='0', overrides=from_file(weights / 'a.npz'))


def test_other_nets_of_the_same_file_are_another_start(table_file, begun, weights):
    start(table_file, seeds='0', overrides=from_file(weights / 'a.npz'))
    with pytest.raises(InputError, match=r'init_from.nets: '):
        start(
            table_file,
            seeds='0',
            overrides=[*from_file(weights / 'a.npz'), ".:init_from.nets=('x/.*',)"],
        )


def test_a_file_that_moved_or_is_gone_is_the_same_start(table_file, begun, weights):
    start(table_file, seeds='0', overrides=from_file(weights / 'a.npz'))
    begun.clear()
    start(table_file, seeds='0', overrides=from_file(weights / 'copy_of_a.npz'))
    (weights / 'a.npz').unlink()
    start(table_file, seeds='0', overrides=from_file(weights / 'a.npz'))
    assert begun == []


def test_runs_older_than_the_record_of_their_start_are_known_by_its_path(
    table_file, trained, weights
):
    start(table_file, seeds='0', overrides=from_file(weights / 'a.npz'))
    trained.clear()
    start(table_file, seeds='0', overrides=from_file(weights / 'a.npz'))
    assert trained == []
    with pytest.raises(InputError, match=r'b\.npz'):
        start(table_file, seeds='0', overrides=from_file(weights / 'b.npz'))


def test_a_preparation_of_images_that_came_with_the_weights_is_no_other_config(
    table_file, trained, weights
):
    start(table_file, seeds='0', overrides=from_file(weights / 'a.npz'))
    trained.clear()
    for path in pathlib.Path('runs').glob('*/seed_0/config.json'):
        content = files.read_json(path)
        files.write_json(path, {**content, 'preprocess': 'deeplab'})  # as the training adopts it
    start(table_file, seeds='0', overrides=from_file(weights / 'a.npz'))
    assert trained == []


AFTER = FILE.replace("labels={'width': '1/2'})", "after='strong')")


def test_a_table_that_moved_is_the_same_table(table_file, begun, monkeypatch):
    table_file.write_text(AFTER)
    monkeypatch.setattr(
        initialization, 'reader', lambda init_from: lambda: {'params': {}, 'model_state': {}}
    )
    start(table_file, seeds='0')
    assert runs(begun) == [('base', 0), ('strong', 0), ('thin', 0)]
    begun.clear()
    pathlib.Path('runs').rename('elsewhere')
    start(table_file, 'elsewhere', seeds='0')
    assert begun == []
    table_file.write_text(AFTER.replace("after='strong'", "after='base'"))
    with pytest.raises(
        InputError, match=r'thin/seed_0\n.*init_from.path: .*strong/seed_0.*now .*base/seed_0'
    ):
        start(table_file, 'elsewhere', seeds='0')


def test_a_row_whose_start_was_trained_anew_is_another_row(table_file, begun, monkeypatch):
    table_file.write_text(AFTER)
    learned = {'params': {'w': np.ones(3)}, 'model_state': {}}

    def read(path):
        if not pathlib.Path(path).exists():
            raise InputError('config.init_from.path', got=path, expected='a run folder')
        return learned

    monkeypatch.setattr(initialization, 'reader', lambda init_from: lambda: read(init_from.path))
    start(table_file, seeds='0')
    shutil.rmtree('runs/strong')
    begun.clear()
    start(table_file, seeds='0')  # the same parameters again
    assert runs(begun) == [('strong', 0)]
    shutil.rmtree('runs/strong')
    begun.clear()
    learned['params']['w'] = np.zeros(3)
    monkeypatch.setattr(
        starts, '_digest', starts._digest.__wrapped__
    )  # files do not change here, their content does
    for _ in range(2):  # after the start has been trained, and before anything is trained
        with pytest.raises(
            InputError, match=r'thin/seed_0\n.*init_from.path: .*strong/seed_0 \(\w+\)'
        ):
            start(table_file, seeds='0')
        assert runs(begun) == [('strong', 0)]
        assert pathlib.Path('runs/thin/seed_0/scores.json').exists()


def test_facts_name_the_starts_and_claims_between_other_starts_say_so(table_file, begun, weights):
    table_file.write_text(AFTER)
    found = initialization.digest(
        pretrained.Weights('', pretrained.read(str(weights / 'a.npz')), '')
    )
    start(
        table_file,
        seeds='0',
        overrides=[f'strong:init_from.path={weights / "a.npz"}'],
        rows='base|strong',
    )
    text = pathlib.Path('runs/table.md').read_text()
    assert f'- start: random: base; a.npz ({found}): strong; row strong: thin' in text
    content = files.read_json(pathlib.Path('runs/table.json'))
    assert content['rows']['strong']['start'] == f'a.npz ({found})'
    verdicts = {claim['text']: claim['verdict'] for claim in content['claims']}
    assert verdicts['augmentation helps'] == 'holds, one seed, different starts'
    assert RESULTS['strong', 0] != RESULTS['base', 0]


def test_a_table_that_begins_at_random_says_nothing_of_starts(outputs):
    assert 'start:' not in (outputs / 'table.md').read_text()


# --- sources of single nets -----------------------------------------------------------------------


def row_of_table(folder, sources, begun_from, digests, **init_from):
    """Returns the arguments of `starts.differences` for a row and its finished run.

    Args:
      folder: the run folder, which is written.
      sources: of the row now.
      begun_from: sources of the finished run.
      digests: by net, as start.json of the finished run records them.
      **init_from: further keys of the row now.
    """
    config = config_lib.defaults('supervised')
    before = config_lib.to_json(config)
    before['init_from']['sources'] = [list(source) for source in begun_from]
    weights = {'generator': {'pattern': '', 'path': '', 'digest': ''}}
    for pattern, path in begun_from:
        weights[pattern] = {'pattern': pattern, 'path': str(path), 'digest': digests[pattern]}
    content = {'stages': [], 'init_from': before['init_from'], 'digest': ''}
    if begun_from:
        content['weights'] = weights
    files.write_json(folder / 'start.json', content)
    config_lib.update(config, init_from=dict(sources=sources, **init_from))
    return Row('row', 'row', 'supervised', {}), config, folder, before


def digest_of(path):
    return initialization.digest(pretrained.Weights('', pretrained.read(str(path)), ''))


def test_sources_of_nets_are_known_by_their_content(weights, tmp_path):
    """A copy of a file at another path, in a row with another pattern, is the same start."""
    a, copy, b = (str(weights / f'{name}.npz') for name in ('a', 'copy_of_a', 'b'))
    digests = {'vgg': digest_of(a)}

    def differences(*sources, **init_from):
        arguments = row_of_table(tmp_path, sources, [('vgg', a)], digests, **init_from)
        return starts.differences(*arguments)

    assert differences(('vgg', a)) == []
    assert differences(('vg.*', copy)) == []
    assert differences(('vgg', a), partial=True) == ['init_from.partial: False, now True']
    (changed,) = differences(('vgg', b))
    assert digests['vgg'] in changed and digest_of(b) in changed
    (dropped,) = differences()
    assert dropped.startswith('init_from.sources of vgg: ') and dropped.endswith("now ''")
    (added,) = differences(('vgg', a), ('gen.*', b))
    assert added == f'init_from.sources of gen.*: none, now {b!r}'


def test_a_source_of_a_net_that_is_gone_is_known_by_its_path(weights, tmp_path):
    a = str(weights / 'a.npz')
    arguments = row_of_table(tmp_path, [('vgg', a)], [('vgg', a)], {'vgg': digest_of(a)})
    (weights / 'a.npz').unlink()
    starts._digest.cache_clear()
    assert starts.differences(*arguments) == []


def test_a_run_without_sources_gets_none_later(weights, tmp_path):
    arguments = row_of_table(tmp_path, [('vgg', str(weights / 'a.npz'))], [], {})
    (change,) = starts.differences(*arguments)
    assert change.startswith('init_from.sources: [], now')
    assert starts.differences(*row_of_table(tmp_path, [], [], {})) == []


def test_the_table_names_the_sources_of_nets(weights, tmp_path):
    a = str(weights / 'a.npz')
    arguments = row_of_table(tmp_path, [('vgg', a)], [('vgg', a)], {'vgg': '0123456789ab'})
    assert starts.text(*arguments) == 'random, vgg from a.npz (0123456789ab)'
    row, config, folder, _ = arguments
    assert starts.text(row, config, folder, None) == 'random, vgg from a.npz'


def test_a_row_that_evaluates_a_run_has_the_start_of_its_net():
    rows = (
        Row('a', 'A', 'x.py'),
        Row('b', 'B', 'x.py', evaluates='a'),
        Row('c', 'C', 'x.py', evaluates='d'),
        Row('d', 'D', 'x.py'),
    )
    table = Table('', '', (), rows, {})
    begun = {'a': 'random', 'b': 'run of row a', 'c': 'run of row d', 'd': 'x.npz'}
    differ = {}
    for pair in ('ab', 'cd', 'ac', 'ad'):
        differ[pair] = numbers.starts_differ(table, Claim('', 'mIoU', *pair), begun)
    assert differ == {'ab': False, 'cd': False, 'ac': True, 'ad': True}
