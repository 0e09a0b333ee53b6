"""Configs: one schema, typed arguments, errors that say got / expected / nearest name before anything compiles."""

import json

import pytest

from segjax import config as config_lib
from segjax.errors import InputError


@pytest.fixture
def config():
    return config_lib.defaults('supervised')


def test_defaults_pass_and_survive_json(config):
    config_lib.validate(config)
    stored = json.loads(json.dumps(config_lib.to_json(config)))
    assert config_lib.from_json(stored) == config


def test_unknown_key_is_refused_where_it_is_written(config):
    with pytest.raises(AttributeError, match='learning_rat'):
        config.optim.learning_rat = 1.0
    with pytest.raises(AttributeError, match='bach_size'):
        config_lib.update(config, train=dict(bach_size=3))


@pytest.mark.parametrize(
    'section, key, value, complaint',
    [
        ('optim', 'learning_rate', 0.0, 'a number > 0'),
        ('optim', 'schedule', 'polly', "did you mean 'poly'"),
        ('augment', 'crop', (64,), 'two whole numbers'),
        ('augment', 'scale', (2.0, 0.5), 'low <= high'),
        ('augment', 'flip', 1.5, r'\[0, 1\]'),
        ('train', 'batch_size', 0, '>= 1'),
        ('train', 'dtype', 'half', 'bfloat16'),
        ('optim', 'factors', (('a', 'b', 'c'),), 'pairs'),
        ('parallel', 'mode', 'pjit', 'shard_map'),
    ],
)
def test_impossible_values_name_the_key(config, section, key, value, complaint):
    config[section][key] = value
    with pytest.raises(InputError, match=complaint) as error:
        config_lib.validate(config)
    assert f'config.{section}.{key}' in str(error.value)
    assert repr(value) in str(error.value)


def test_keys_in_only_one_of_config_and_schema(config):
    with config.unlocked():
        config.optim.momentun = 0.9
    with pytest.raises(InputError, match="did you mean 'momentum'"):
        config_lib.validate(config)
    with config.unlocked():
        del config.optim.momentun
        del config.optim.power
    with pytest.raises(InputError, match=r'config\.optim\.power'):
        config_lib.validate(config)


def test_unknown_pipeline_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'supervised'"):
        config_lib.defaults('superwised')


def test_choosing_a_net_brings_its_own_keys(config):
    config_lib.choose(config, 'model', 'erfnet')
    assert config.model.name == 'erfnet' and config.model.width == 1.0
    with pytest.raises(InputError, match="did you mean 'erfnet'"):
        config_lib.choose(config, 'model', 'erfnett')
    with config.unlocked():
        config.model.depth = 3
    with pytest.raises(InputError, match=r'config\.model\.depth'):
        config_lib.validate(config)


def test_arguments_after_the_colon_are_typed():
    spec = dict(noise='none', snr=0.0, batch=4, fast=False)
    args = config_lib.parse_arg('quick,snr=7.38,batch=8,fast', ('quick', 'smoke'), **spec)
    assert (args.variant, args.noise, args.snr, args.batch, args.fast) == ('quick', 'none', 7.38, 8, True)
    assert config_lib.parse_arg('', ('quick',), **spec).variant == ''
    assert config_lib.parse_arg('batch=2', ('quick',), **spec).batch == 2


@pytest.mark.parametrize(
    'arg, complaint',
    [
        ('quik', "did you mean 'quick'"),
        ('quick,snrr=3', "did you mean 'snr'"),
        ('quick,snr=loud', "'loud'"),
        ('quick,batch=1.5', 'a int'),
    ],
)
def test_wrong_arguments_are_refused(arg, complaint):
    with pytest.raises(InputError, match=complaint):
        config_lib.parse_arg(arg, ('quick', 'smoke'), snr=0.0, batch=4)


def test_only_what_changes_the_result_counts_as_another_config(config):
    old = config_lib.to_json(config)
    config.run.log_every = 3
    config.data.threads = 9
    config.parallel.mode = 'shard_map'
    assert config_lib.differences(old, config_lib.to_json(config)) == []
    config.train.batch_size = 12
    assert config_lib.differences(old, config_lib.to_json(config)) == ['train.batch_size: 6, now 12']
