"""Label maps to images: published sizes, inputs, and runs that stop, resume and start from runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import release_nets
import run_folders
from fakes import SPEC
from nets import size

from segjax import config as config_lib
from segjax import pipelines, pretrained
from segjax.config import config_file
from segjax.data import labels
from segjax.errors import InputError
from segjax.pipelines import label_to_image
from segjax.pretrained.sources import SOURCES
from segjax.train import driver
from segjax.train.stop import Preempted

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')

NETS = ('pix2pixhd_global', 'pix2pixhd_local', 'mask_to_image')
VGG = "(('vgg', 'vgg19.pth'),)"


def cityscapes_of_the_release():
    """Returns Cityscapes with 34 classes: with void and edges, layouts have 36 channels."""
    return dataclasses.replace(SPEC, classes=labels.CITYSCAPES_ALL)


def abstract_state(config, spec):
    (stage,) = label_to_image.make_stages(config, spec)
    names = stage.train_input.features
    shape = (1, *stage.train_input.size)
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in names}
    batch['image'] = jax.ShapeDtypeStruct((*shape, 3), jnp.uint8)
    return stage, jax.eval_shape(lambda: stage.init(jax.random.key(0), batch, {}))


# --- the published experiments --------------------------------------------------------------------


def test_the_nets_have_the_published_sizes():
    config = config_file.load('configs/label_to_image.py')
    config.init_from.sources = (('vgg', 'vgg19.pth'),)
    stage, state = abstract_state(config, cityscapes_of_the_release())
    sizes = {net: size(tree) for net, tree in state.params.items()}
    assert sizes['painter'] == 182_546_755
    assert sizes['painter_discriminator'] == 5_603_202
    assert sizes['vgg'] == 12_944_960
    assert stage.train_input.size == stage.eval_input.size == (512, 1024)
    assert stage.num_steps == 595_000


def test_the_local_enhancer_starts_from_a_global_generator():
    config = config_file.load('configs/label_to_image.py:local')
    config.init_from.sources = (('vgg', 'vgg19.pth'),)
    with pytest.raises(InputError, match='random parameters would stay fixed'):
        label_to_image.make_stages(config, SPEC)
    config.init_from.path = 'runs/painter'
    stage, state = abstract_state(config, cityscapes_of_the_release())
    whole = config_file.load('configs/label_to_image.py')
    whole.init_from.sources = config.init_from.sources
    _, of_global = abstract_state(whole, cityscapes_of_the_release())
    shapes = [
        jax.tree.map(lambda x: x.shape, each.params['painter']['trunk'])
        for each in (state, of_global)
    ]
    assert shapes[0] == shapes[1]
    assert set(state.params['painter_discriminator']) == {'scale_0', 'scale_1', 'scale_2'}
    assert stage.train_input.size == (1024, 2048)
    assert config.painter.fix_global == stage.num_steps // 10


def test_boxes_are_cut_around_movable_objects():
    config = config_file.load('configs/label_to_image.py:box')
    config.init_from.sources = (('vgg', 'vgg19.pth'),)
    spec = cityscapes_of_the_release()
    stage, state = abstract_state(config, spec)
    train = stage.train_input.transform.keywords['crop']
    evaluation = stage.eval_input.transform.keywords['crop']
    assert (train.size, train.margin, train.background, train.flip) == (256, 3.0, 0.3, 0.5)
    movable = ['person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle']
    assert [spec.classes.names[train_id] for train_id in train.classes] == movable
    assert evaluation == train._replace(background=0.0, flip=0.0)
    assert stage.train_input.features == ('image', 'label', 'mask_box')
    assert 'layout_encoder' in state.params['painter']
    config.painter.instance_edges = True
    (stage,) = label_to_image.make_stages(config, spec)
    assert stage.train_input.features[-1] == 'instance'
    assert stage.train_input.transform.keywords['crop'].keep_instance


def test_crops_are_made_of_known_classes():
    config = config_file.load('configs/label_to_image.py:smoke,net=mask_to_image')
    config.boxes.classes = ()
    (stage,) = label_to_image.make_stages(config, SPEC)
    assert stage.eval_input.each == 'targets' and stage.eval_input.size == (32, 32)
    config.boxes.classes = ('clas 1',)
    with pytest.raises(InputError, match="did you mean 'class 1'"):
        label_to_image.make_stages(config, SPEC)


@pytest.mark.parametrize('variant', ['', 'local', 'box'])
def test_published_variants_need_vgg19_or_a_weight_of_0(variant):
    config = config_file.load(f'configs/label_to_image.py:{variant}')
    config.init_from.path = 'runs/painter'
    config.boxes.classes = ()
    with pytest.raises(InputError, match="no row for the net 'vgg'"):
        label_to_image.make_stages(config, SPEC)
    label_to_image.make_stages(config_file.overridden(config, 'painter.weights.vgg=0'), SPEC)
    label_to_image.make_stages(config_file.overridden(config, f'init_from.sources={VGG}'), SPEC)


def test_small_variants_choose_their_net():
    for net in NETS:
        for variant in ('quick', 'smoke'):
            config = config_file.load(f'configs/label_to_image.py:{variant},net={net}')
            assert config.painter.model.name == net
    with pytest.raises(InputError, match='quick or smoke'):
        config_file.load('configs/label_to_image.py:box,net=mask_to_image')
    with pytest.raises(InputError, match="did you mean 'mask_to_image'"):
        config_file.load('configs/label_to_image.py:quick,net=mask_to_imag')


# --- runs -----------------------------------------------------------------------------------------


def smoke(net, **sections):
    config = config_file.load(f'configs/label_to_image.py:smoke,net={net}')
    config_lib.update(config, **sections)
    return config


@pytest.mark.slow
@pytest.mark.parametrize(('net', 'step'), [('pix2pixhd_global', 1), ('mask_to_image', 3)])
def test_a_stopped_run_continues_bit_identically(net, step, one_device, tmp_path, monkeypatch):
    logging = dict(checkpoint_every=0, eval_every=0, num_pictures=0)
    config = smoke(net, train=dict(ema=0.9, num_steps=step + 1), logging=logging)
    scores = driver.train(config, str(tmp_path / 'whole'))['painter']
    ending = '_box' if net == 'mask_to_image' else ''
    assert {f'PSNR{ending}', f'SSIM{ending}', 'baseline_class_color'} <= set(scores)
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        run_folders.stop_at(patch, 'painter', step)
        driver.train(config, str(tmp_path / 'parts'))
    driver.train(config, str(tmp_path / 'parts'))
    run_folders.assert_same_run(tmp_path / 'whole', tmp_path / 'parts', ['painter'])


@pytest.mark.slow
def test_a_local_enhancer_continues_a_run_of_a_global_generator(one_device, tmp_path):
    driver.train(smoke('pix2pixhd_global'), str(tmp_path / 'global'))
    config = smoke('pix2pixhd_local', painter=dict(fix_global=3))
    config.init_from.path = str(tmp_path / 'global')
    driver.train(config, str(tmp_path / 'local'))
    trained = run_folders.final_state(tmp_path / 'global', 'painter')
    last = run_folders.final_state(tmp_path / 'local', 'painter')
    trunk = [name for name in last if name.startswith('params/painter/trunk/')]
    kernels = [name for name in trunk if name.endswith('kernel')]
    assert set(trunk) == {name for name in trained if name.startswith('params/painter/trunk/')}
    # One of the four steps moved the global generator: by the learning rate of Adam's first step.
    for name in kernels:
        moved = np.abs(last[name] - trained[name]).max()
        assert 0 < moved < 1.01e-3, name


@pytest.mark.slow
def test_vgg19_and_a_segmenter_come_from_files_and_stay(one_device, tmp_path):
    variables = release_nets.variables_of('vgg19')
    tensors = pretrained.export_weights(variables, SOURCES['vgg19'])
    np.savez(tmp_path / 'vgg19.npz', **tensors)
    segmenter = config_file.load('configs/supervised.py:smoke')
    config_lib.update(
        segmenter,
        train=dict(num_steps=20),
        evaluate=dict(resolution='image'),
        logging=dict(eval_every=0, checkpoint_every=0),
    )
    (real,) = driver.train(segmenter, str(tmp_path / 'segmenter')).values()
    assert real['mIoU'] > 0
    config = smoke('pix2pixhd_global')
    config_lib.choose(config, 'segmenter.model', segmenter.model.name)
    config.segmenter.model.update(segmenter.model)
    config_lib.update(
        config,
        painter=dict(weights=dict(vgg=10.0), features=dict(width=1 / 64)),
        segmenter=dict(use='load', preprocess=segmenter.preprocess),
        init_from=dict(
            sources=(
                ('vgg', str(tmp_path / 'vgg19.npz')),
                ('segmenter', str(tmp_path / 'segmenter')),
            )
        ),
    )
    scores = driver.train(config, str(tmp_path / 'painter'))['painter']
    state = run_folders.final_state(tmp_path / 'painter', 'painter')
    given = run_folders.final_state(tmp_path / 'segmenter', 'segmentation')
    for name, value in given.items():
        if name.startswith(('params/segmenter/', 'model_state/segmenter/')):
            np.testing.assert_array_equal(state[name], value)
    kernel = variables['params']['vgg']['conv3_1']['kernel']
    np.testing.assert_array_equal(state['params/vgg/vgg/conv3_1/kernel'], kernel)
    assert scores['mIoU_real'] == pytest.approx(real['mIoU'], abs=1e-6)
    assert scores['mIoU_ratio'] == pytest.approx(scores['mIoU'] / scores['mIoU_real'])


def test_it_is_registered():
    assert pipelines.load('label_to_image') is label_to_image
