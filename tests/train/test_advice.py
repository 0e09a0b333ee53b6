"""Warnings about configs: wrong configs get them, and the configs of the repository do not."""

import pathlib

import pytest

from segjax import config as config_lib
from segjax.config import config_file
from segjax.errors import InputError
from segjax.modes import doctor
from segjax.protocol import Input, Stage
from segjax.train import advice

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DATA = Input('train', 1, (), (1, 1))
SIZES = {'cityscapes': (1024, 2048), 'cityscapes_video': (1024, 2048), 'camvid': (360, 480)}


def config_with(**augment):
    config = config_lib.defaults('supervised')
    config_lib.update(config, augment=augment)
    return config


@pytest.mark.parametrize(
    'size, resize, warns',
    [
        ((360, 480), (), False),
        ((360, 480), (120, 160), False),
        ((360, 480), (480, 640), False),
        ((360, 480), (121, 161), False),  # 120.75 rows
        ((360, 480), (128, 160), True),
        ((360, 480), (122, 160), True),
        ((1080, 1920), (256, 455), False),  # 455.1 columns
        ((1024, 2048), (512, 512), True),
        ((2048, 1024), (512, 1024), True),
    ],
)
def test_a_resize_to_another_aspect(size, resize, warns):
    warnings = advice.stretched(config_with(resize=resize), size)
    assert len(warnings) == warns
    if not warns:
        return
    (warning,) = warnings
    assert warning.where == 'config.augment.resize' and f'{size[0]}x{size[1]}' in warning.message
    # The sizes in the fix are free of the warning.
    for named in warning.fix.split('"')[1::2]:
        fitting = config_lib.typed(named.rpartition('=')[2], ())
        assert advice.stretched(config_with(resize=fitting), size) == []


def experiments():
    for path in sorted((REPOSITORY / 'configs').glob('*.py')):
        with pytest.raises(InputError) as error:
            config_file.load(f'{path}:no_such_variant')
        for variant in ('', *error.value.expected.removeprefix('one of ').split(', ')):
            yield f'{path}:{variant}'


@pytest.mark.parametrize(
    'experiment', list(experiments()), ids=lambda text: text.rpartition('/')[2]
)
def test_shipped_configs_keep_the_aspect_of_their_images(experiment):
    config = config_file.load(experiment)
    size = SIZES.get(config.data.name, tuple(config.data.world.size))
    if config.data.name in (*SIZES, 'streets'):
        assert advice.stretched(config, size) == []


@pytest.mark.parametrize('net', ['largefov', 'deeplab_v2', 'pspnet'])
def test_a_published_start_is_missed(net):
    config = config_file.load(f'{REPOSITORY}/configs/learned_dilation.py:net={net}')
    (warning,) = advice.without_start(config)
    assert warning.where == 'config.init_from.path' and 'trained on' in warning.message
    for section in (dict(path='weights.npz'), dict(expected='')):
        changed = config.copy_and_resolve_references()
        config_lib.update(changed, init_from=section)
        assert advice.without_start(changed) == []


def test_small_experiments_from_scratch_miss_nothing():
    for variant in ('quick', 'smoke', 'camvid_quick'):
        assert (
            advice.without_start(
                config_file.load(f'{REPOSITORY}/configs/learned_dilation.py:{variant}')
            )
            == []
        )


@pytest.mark.parametrize(
    'steps, path, named', [(0, '', ['depth']), (0, 'runs/depth', []), (5, '', [])]
)
def test_a_stage_without_steps_and_start_keeps_random_parameters(steps, path, named):
    config = config_lib.defaults('supervised')
    config.init_from.path = path
    config.train.num_steps = steps
    stages = [Stage('depth', steps, DATA, *[None] * 7), Stage('segmentation', 3, *[None] * 8)]
    warnings = advice.untrained(config, stages)
    assert [warning.message.split("'")[1] for warning in warnings] == named


def test_a_stage_without_training_data_uses_the_nets_of_the_stages_before():
    config = config_lib.defaults('supervised')
    assert advice.untrained(config, [Stage('audit', 0, *[None] * 8)]) == []


def test_a_stage_that_no_key_gives_steps_uses_the_nets_of_the_stages_before():
    config = config_lib.defaults('supervised')
    assert advice.untrained(config, [Stage('audit', 0, DATA, *[None] * 7)]) == []


def test_a_stage_of_the_name_of_a_section_without_steps_has_the_steps_of_the_training():
    config = config_lib.defaults('shape_classifier')
    steps = config.train.num_steps
    config.train.num_steps = 0
    (warning,) = advice.untrained(config, [Stage('shapes', 0, DATA, *[None] * 7)])
    assert f'--config.train.num_steps={steps}' in warning.fix


@pytest.mark.parametrize(
    'method', ['holistic', 'depth', 'pose', 'klingner', 'chen_multitask', 'novosel', 'baseline']
)
def test_the_doctor_finds_nothing_in_configs_of_scene_geometry(without_traces, method):
    config = config_file.load(f'{REPOSITORY}/configs/scene_geometry.py:smoke,method={method}')
    assert all(problem.severity != 'error' for problem in doctor.diagnose(config))


def test_the_doctor_says_that_a_depth_net_is_random(without_traces):
    config = config_file.load(f'{REPOSITORY}/configs/scene_geometry.py:smoke')
    config.depth.num_steps = 0
    messages = [problem.message for problem in doctor.diagnose(config)]
    assert any("stage 'depth' has 0 steps" in message for message in messages)


def test_the_doctor_says_so_on_real_images(without_traces, real_data):
    config = config_file.load(f'{REPOSITORY}/configs/learned_dilation.py:camvid_vgg')
    config_lib.update(
        config, data=dict(root=str(real_data / 'camvid')), augment=dict(resize=(128, 160))
    )
    warnings = {problem.where: problem for problem in doctor.diagnose(config)}
    warnings = {where: w for where, w in warnings.items() if w.severity == 'warning'}
    assert '(120, 160)' in warnings['config.augment.resize'].fix
    assert 'VGG16' in warnings['config.init_from.path'].message
