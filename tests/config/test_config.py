"""Configs: schema, typed arguments, stored form, and errors before anything compiles."""

import json
import pathlib
import pickle
import re

import pytest

from segjax import config as config_lib
from segjax import schema as schema_lib
from segjax.config import config_file
from segjax.errors import InputError
from segjax.pipelines import supervised
from segjax.report.scores import scored_as_asked


@pytest.fixture
def config():
    return config_lib.defaults('supervised')


def test_defaults_pass_and_survive_json(config):
    config_lib.validate(config)
    stored = json.loads(json.dumps(config_lib.to_json(config)))
    assert config_lib.from_json(stored) == config


@pytest.mark.parametrize(
    'pipeline, key, before',
    [('noise_cyclegan', 'cycle.latent_gain', 1.0), ('learned_dilation', 'dilation.gate', 'batch')],
)
def test_a_run_that_is_older_than_a_key_stays_what_it_was(pipeline, key, before):
    config = config_lib.defaults(pipeline)
    section, name = key.split('.')
    old = config_lib.to_json(config)
    del old[section][name]
    assert config_lib.from_json(old)[section][name] == before
    now = config[section][name]
    assert config_lib.differences(old, config_lib.to_json(config)) == [
        f'{key}: {before!r}, now {now!r}'
    ]
    with config.unlocked():
        config[section][name] = before
    assert config_lib.differences(old, config_lib.to_json(config)) == []


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


@pytest.mark.parametrize(
    'key, value', [('source', 'resnet'), ('partial', True), ('preprocess', 'keep')]
)
def test_keys_about_published_weights_are_refused_beside_a_run_folder(config, key, value):
    config.init_from[key] = value
    for path in ('', 'w.npz', 'hf:owner/name/w.safetensors'):
        config.init_from.path = path
        config_lib.validate(config)
    config.init_from.path = 'runs/first'
    with pytest.raises(
        InputError, match=f'{value!r} with runs/first, which is no file of weights'
    ) as error:
        config_lib.validate(config)
    assert error.value.where == f'config.init_from.{key}'
    config_file.overridden(config, error.value.fix.split(',')[0].removeprefix('--config.'))


def test_errors_survive_pickle_and_keep_all_parts_elsewhere():
    error = InputError('here', got='1', expected='2', fix='3', meaning='Four is four.')
    for copy in (pickle.loads(pickle.dumps(error)), error.at('there').at('here')):
        assert str(copy) == str(error) and vars(copy) == vars(error)
    assert str(error).splitlines()[3:] == ['  meaning:  Four is four.', '  fix:      3']
    assert error.replaced(fix='').meaning == 'Four is four.'


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


def test_a_net_in_an_inner_section_is_chosen_by_its_path():
    config = config_lib.defaults('label_to_image')
    config_lib.choose(config, 'painter.model', 'mask_to_image')
    assert config.painter.model.name == 'mask_to_image' and config.painter.model.blocks == 9
    config_lib.validate(config)
    typed = config_file.overridden(config, 'painter.model.name=pix2pixhd_local')
    assert typed.painter.model.local_blocks == 3
    with pytest.raises(InputError, match="did you mean 'pix2pixhd_local'"):
        config_file.overridden(config, 'painter.model.name=pix2pixhd_loca')
    with pytest.raises(InputError, match=r'config\.painter\.model\.name'):
        config_lib.choose(config, 'painter.model', 'two_stream')


def test_arguments_after_the_colon_are_typed():
    spec = dict(noise='none', snr=0.0, batch=4, fast=False)
    args = config_lib.parse_arg('quick,snr=7.38,batch=8,fast', ('quick', 'smoke'), **spec)
    assert (args.variant, args.noise, args.snr, args.batch, args.fast) == (
        'quick',
        'none',
        7.38,
        8,
        True,
    )
    assert config_lib.parse_arg('', ('quick',), **spec).variant == ''
    assert config_lib.parse_arg('batch=2', ('quick',), **spec).batch == 2


@pytest.mark.parametrize(
    'arg, complaint',
    [
        ('quik', "did you mean 'quick'"),
        ('quick,snrr=3', "did you mean 'snr'"),
        ('quick,snr=loud', "'loud'"),
        ('quick,batch=1.5', 'a whole number'),
        ('quick,batch=2,snr=3,batch=2', 'batch twice'),
        ('quick,batch=2,quick', 'quick twice'),
    ],
)
def test_wrong_arguments_are_refused(arg, complaint):
    with pytest.raises(InputError, match=complaint):
        config_lib.parse_arg(arg, ('quick', 'smoke'), snr=0.0, batch=4)


def test_overrides_are_typed_by_what_they_replace(config):
    text = (
        'model.forms=naive; augment.crop=(64, 128);optim.learning_rate=1;'
        'data.world.seed=3;optim.nesterov=true;'
    )
    changed = config_file.overridden(config, text)
    assert changed.model.forms == 'naive' and changed.augment.crop == (64, 128)
    assert isinstance(changed.optim.learning_rate, float) and changed.optim.learning_rate == 1
    assert changed.data.world.seed == 3 and changed.optim.nesterov is True
    assert changed.is_locked and changed.model.is_locked
    assert config == config_lib.defaults('supervised'), 'the config itself stays as it is'


def test_overriding_the_name_of_a_net_brings_its_keys(config, monkeypatch):
    nets = {
        'erfnet': {'forms': schema_lib.Field('fast', '')},
        'tiny': {'depth': schema_lib.Field(3, '')},
    }
    monkeypatch.setitem(supervised.SCHEMA, 'model', schema_lib.Choice('erfnet', '', nets))
    config = config_file.overridden(
        config_lib.defaults('supervised'), 'model.name=tiny;model.depth=5'
    )
    assert config.model.to_dict() == {'name': 'tiny', 'depth': 5}
    with pytest.raises(InputError, match=r'config.model.forms[\s\S]*one of depth, name'):
        config_file.overridden(config, 'model.forms=naive')


@pytest.mark.parametrize(
    'overrides, complaint',
    [
        ('model.form=naive', r"config.model.form\n[\s\S]*did you mean 'forms'"),
        ('forms=naive', r'config.forms\n[\s\S]*one of .*model'),
        ('model=erfnet', r'config.model\n[\s\S]*one of its keys: .*forms'),
        ('seed=1;model.forms', r'config.model.forms\n.*nothing\n.*a text'),
        (
            'train.batch_size=1.5',
            r"config.train.batch_size\n.*'1.5'\n.*a whole number\n.*\n.*batch_size=6",
        ),
        ('augment.crop=64', r'config.augment.crop\n.*\n.*a tuple'),
        ('augment.crop=(64', r'config.augment.crop\n.*\n.*a tuple'),
        ('augment.crop=(64,0)', r'config.augment.crop\n.*\n.*whole numbers > 0'),
        ('train.dtype=float31', "did you mean 'float32'"),
    ],
)
def test_wrong_overrides_are_refused(config, overrides, complaint):
    with pytest.raises(InputError, match=complaint):
        config_file.overridden(config, overrides)


def test_only_what_changes_the_result_counts_as_another_config(config):
    old = config_lib.to_json(config)
    config.logging.log_every = 3
    config.data.threads = 9
    config.parallel.mode = 'shard_map'
    config.bench.variants = ('model.forms=naive',)
    assert config_lib.differences(old, config_lib.to_json(config)) == []
    config.train.batch_size = 12
    assert config_lib.differences(old, config_lib.to_json(config)) == [
        'train.batch_size: 6, now 12'
    ]
    others = config_lib.differences(
        old, config_lib.to_json(config), free=('bench', 'data.threads', 'train')
    )
    assert others == ['logging.log_every: 20, now 3', "parallel.mode: 'pmap', now 'shard_map'"]


@pytest.mark.parametrize(
    'scores, same',
    [
        ({'error': 0.1}, True),
        ({'policy': 'cityscapes', 'resolution': 'label size'}, False),
        ({'policy': 'cityscapes'}, False),
        ({'policy': 'absent_zero', 'resolution': '16x32'}, False),
        ({'policy': 'cityscapes', 'resolution': '16x32'}, True),
    ],
)
def test_stored_scores_are_reused_under_the_same_protocol_only(config, scores, same):
    config.data.eval_size = (16, 32)
    config.evaluate.resolution = 'image'
    assert scored_as_asked(scores, config) == same


@pytest.mark.parametrize(
    'change', [[1], None, {'pipeline': None}, {'data': None}, {'model': 3}, {'optim': {'name': 1}}]
)
def test_a_stored_config_that_was_edited_is_an_input_error(change):
    now = config_lib.to_json(config_lib.defaults('supervised'))
    stored = {**now, **change} if isinstance(change, dict) else change
    with pytest.raises(InputError):
        config_lib.from_json(stored)
    with pytest.raises(InputError):
        config_lib.changes(stored, now)


@pytest.mark.parametrize(
    'path',
    sorted((pathlib.Path(__file__).parent / 'stored_configs').glob('*.json')),
    ids=lambda p: p.stem,
)
def test_a_config_of_an_older_run_is_read_under_the_present_names(path):
    # Written when `logging` was called `run`, and `num_layers` of a net `depth`.
    stored = json.loads(path.read_text())
    config = config_lib.from_json(stored)
    assert 'run' not in config and config.logging.to_dict() == stored['run']
    new = config_lib.to_json(config)
    assert config_lib.differences(stored, new, free=()) == []
    if 'geometry' in stored:
        old = stored['geometry']
        named = (
            config.geometry.depth_from,
            config.geometry.semantic_map,
            config.geometry.depth_map,
        )
        assert named == (old['depth'], old['of'], old['map'])
    for section in ('model', 'depth_net', 'pose_net', 'painter'):
        if 'depth' in stored.get(section, {}):
            assert config[section].num_layers == stored[section]['depth']


def test_every_choice_of_nets_knows_the_old_name_of_the_number_of_layers():
    # Later pipelines never had the old name.
    for pipeline in ('learned_dilation', 'noise_cyclegan', 'scene_geometry', 'supervised'):
        for section, entry in config_lib.schema_of(pipeline).items():
            options = getattr(entry, 'options', {}).values()
            if any('num_layers' in option for option in options):
                assert schema_lib.RENAMED[f'{section}.depth'] == f'{section}.num_layers'


@pytest.mark.parametrize(
    'key, text, fix',
    [
        ('run.log_every', '5', '--config.logging.log_every=5'),
        ('geometry.of', 'softmax', '--config.geometry.semantic_map=softmax'),
        ('model.depth', '50', '--config.model.num_layers=50'),
    ],
)
def test_a_renamed_key_on_the_command_line_is_an_error_with_a_fix_to_type(key, text, fix):
    config = config_lib.defaults('scene_geometry')
    with pytest.raises(InputError, match='was renamed') as error:
        config_file.assign(config, [config_file.Assignment(key, text)])
    assert error.value.fix == fix
    config_file.assign(config, [config_file.Assignment(*fix.removeprefix('--config.').split('='))])


def test_a_net_that_never_had_the_old_key_is_not_told_of_a_new_name(config):
    with pytest.raises(InputError, match='one of ') as error:
        config_file.assign(config, [config_file.Assignment('model.depth', '18')])
    assert 'num_layers' not in str(error.value)


@pytest.mark.parametrize(
    'line, fix',
    [
        ('config.run.eval_every = 3', 'config.logging was config.run'),
        ('segjax_config.update(config, run=dict(eval_every=3))', 'config.logging was config.run'),
        ('config.geometry.depth = "none"', 'config.geometry.depth_from was config.geometry.depth'),
    ],
)
def test_the_old_name_in_a_config_file_is_an_error_with_the_new_name(line, fix, tmp_path):
    path = tmp_path / 'old.py'
    path.write_text(
        'from segjax import config as segjax_config\n'
        'def get_config(arg=""):\n'
        '    config = segjax_config.defaults("scene_geometry")\n'
        f'    {line}\n'
        '    return config\n'
    )
    with pytest.raises(InputError, match=re.escape(fix)):
        config_file.load(str(path))
