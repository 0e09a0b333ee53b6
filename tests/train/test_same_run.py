"""Configs and data that a command may bring to a run folder, apart from test_driver.py."""

import copy
import dataclasses

import layouts
import pytest

from segjax import config as config_lib
from segjax import data
from segjax.core import files
from segjax.errors import InputError
from segjax.report.scores import MADE_BY
from segjax.train import same_run


@pytest.mark.parametrize('other', ['link', 'raw/../raw'])
def test_the_data_of_a_run_by_another_path_are_the_same_data(tmp_path, other):
    root = tmp_path / 'raw'
    layouts.write_camvid(root)
    (tmp_path / 'link').symlink_to(root)
    config = config_lib.defaults('supervised')
    config_lib.update(
        config, data=dict(name='camvid', root=str(root), cache=str(tmp_path / 'cache'))
    )
    spec = data.prepare(config.data).spec
    folder = tmp_path / 'run'
    (folder / 'supervised/checkpoints/1/record').mkdir(parents=True)
    files.write_json(folder / same_run.CONFIG, config_lib.to_json(config))
    files.write_json(folder / same_run.SPEC, spec.to_json())
    exchanged = dataclasses.replace(
        spec.classes, ids=(*spec.classes.ids[1::-1], *spec.classes.ids[2:])
    )
    config.data.root = str(tmp_path / other)
    same_run.check_classes(folder, config, {'data': spec})
    with pytest.raises(InputError, match='another id of class 0'):
        specs = {'data': dataclasses.replace(spec, classes=exchanged)}
        same_run.check_classes(folder, config, specs)


def test_scores_that_were_recorded_under_old_names_of_keys_still_hold():
    config = config_lib.defaults('scene_geometry')
    now = {'step': 4, 'data': {'val': 'abc'}, 'config': config_lib.recorded(config)}
    old = copy.deepcopy(now)
    geometry = old['config']['geometry']
    geometry['of'] = geometry.pop('semantic_map')
    assert same_run.still_hold({MADE_BY: old}, now, config)
    geometry['of'] = 'logits'
    assert not same_run.still_hold({MADE_BY: old}, now, config)
    for changed in ({'step': 3}, {'data': {'val': 'xyz'}}):
        assert not same_run.still_hold({MADE_BY: now | changed}, now, config)
    # An edited file.
    for broken in ({}, None, {'step': 4}, now | {'config': 'lost'}):
        assert not same_run.still_hold({MADE_BY: broken}, now, config)
