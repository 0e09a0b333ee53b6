"""All nets on a backbone: published counts, any input size, taps, SyncBN, bfloat16, training."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import SPEC, train_batch
from nets import count, shapes_of

from segjax import config as config_lib
from segjax import models
from segjax.core import parallel, rng
from segjax.errors import InputError
from segjax.models.layers import Conv
from segjax.pipelines import supervised

# (net, fields, channels of the image, parameters)
PUBLISHED = [
    ('pspnet', dict(num_classes=19), 3, 46_715_347 + 2_364_691),
    ('pspnet', dict(num_classes=19, aux_head=False), 3, 46_715_347),
    ('pspnet', dict(num_classes=150, aux_head=False), 3, 46_782_550),
    ('pspnet', dict(num_classes=19, num_layers=101), 3, 65_707_475 + 2_364_691),
    ('deeplab_largefov', dict(num_classes=19), 3, 20_503_379),
    ('deeplab_largefov', dict(num_classes=21), 3, 20_505_429),
    ('deeplab_largefov', dict(num_classes=11), 3, 20_495_179),
    ('deeplab_v2', dict(num_classes=21), 3, 44_048_532),
    ('deeplab_v2', dict(num_classes=19, scales=(0.75, 0.5)), 3, 43_901_068),
    ('deeplab_v2', dict(num_classes=11), 3, 43_311_212),
    ('fcn', dict(num_classes=40, output_stride=32), 3, 134_424_424),
    ('fcn', dict(num_classes=40, output_stride=16), 3, 134_444_944),
    ('fcn', dict(num_classes=40, output_stride=16, streams=('color', 'hha')), 6, 268_889_888),
    ('fcn', dict(num_classes=21, output_stride=32), 3, 134_346_581),
    ('fcn', dict(num_classes=21), 3, 134_362_751),
    ('bisenet', dict(num_classes=19, release='coin'), 3, 13_425_721),
    ('bisenet', dict(num_classes=22, release='coin'), 3, 13_426_882),
    ('bisenet', dict(num_classes=22, num_layers=50, release='coin'), 3, 28_609_218),
    ('bisenet', dict(num_classes=19), 3, 13_494_777),
    ('bisenet', dict(num_classes=22, num_layers=50), 3, 28_678_850),
    ('deeplab_v3plus', dict(num_classes=19, backbone='xception65'), 3, 41_054_899),
    ('deeplab_v3plus', dict(num_classes=19, backbone='xception71'), 3, 43_477_323),
    ('deeplab_v3plus', dict(num_classes=19, backbone='xception71', head='dpc'), 3, 41_608_523),
    ('deeplab_v3plus', dict(num_classes=19, head='dpc', output_stride=8), 3, 41_608_523),
]
# Quick variants: (fields, a tap, its shape for an image of 50 x 65, number of batch norms).
SMALL = {
    'bisenet': (dict(), 'conv4_2', (4, 5, 32), 20 + 4 + 2 * 2 + 3 + 1 + 3),
    'deeplab_largefov': (dict(), 'conv4_3', (8, 9, 64), 0),
    'deeplab_v2': (dict(num_layers=50), 'conv4_6', (7, 9, 128), 53),
    'deeplab_v3plus': (
        dict(backbone='resnet50', head='dpc'),
        'conv4_6',
        (4, 5, 128),
        55 + 5 * 2 + 1 + 1 + 2 * 2,
    ),
    'fcn': (dict(), 'conv3_1', (62, 66, 32), 0),
    'pspnet': (dict(num_layers=18), 'conv3_2', (7, 9, 16), 16 + 3 + 4 + 4 + 1 + 1),
}
NETS = pytest.mark.parametrize('name', SMALL)


def small(name, **args):
    given = {
        'num_classes': 5,
        'dtype': jnp.float32,
        'axis_name': None,
        'width': 0.125,
        **SMALL[name][0],
        **args,
    }
    return models.build('segmentation', name, **given)


def test_every_net_with_a_backbone_is_here():
    with_taps = {
        name
        for name in models.NETS['segmentation']
        if 'taps' in models.schema('segmentation', name)
    }
    assert set(SMALL) == with_taps - {'erfnet'}  # which has blocks of its own


@pytest.mark.parametrize('name, args, channels, expected', PUBLISHED)
def test_published_parameter_counts(name, args, channels, expected):
    outputs, variables = shapes_of(models.NETS['segmentation'][name](**args), (1, 97, 65, channels))
    assert count(variables) == expected
    chex.assert_shape(outputs['logits'], (1, 97, 65, args['num_classes']))


@NETS
@pytest.mark.parametrize('size', [(65, 97), (50, 32)])
def test_logits_and_auxiliary_logits_have_the_size_of_any_image(name, size):
    outputs, _ = shapes_of(small(name), (2, *size, 3))
    maps = [outputs['logits'], *outputs.get('aux', {}).values()]
    chex.assert_shape(maps, (2, *size, 5))
    assert {y.dtype for y in maps} == {np.dtype('float32')}
    assert set(outputs) <= {'logits', 'aux'}


@NETS
def test_taps_are_returned_on_demand_and_change_no_parameter(name):
    _, tap, shape, _ = SMALL[name]
    outputs, variables = shapes_of(small(name, taps=(tap,)), (1, 50, 65, 3))
    assert set(outputs['features']) == {tap}
    chex.assert_shape(outputs['features'][tap], (1, *shape))
    chex.assert_trees_all_equal_shapes(variables, shapes_of(small(name), (1, 50, 65, 3))[1])
    with pytest.raises(InputError, match='taps'):
        shapes_of(small(name, taps=('conv9_9',)))


@NETS
def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32(name):
    tap = SMALL[name][1]
    outputs, variables = shapes_of(small(name, dtype=jnp.bfloat16, taps=(tap,)))
    assert outputs.pop('features')[tap].dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves((variables, outputs))} == {np.dtype('float32')}


@NETS
def test_every_batch_norm_sums_over_devices_unless_frozen(name):
    def reductions(train, **args):
        net = small(name, axis_name='data', **args)
        variables = shapes_of(net)[1]
        run = lambda v, x: net.apply(  # noqa: E731
            v, x, train=train, rngs={'dropout': jax.random.key(1)}, mutable=['batch_stats']
        )
        return str(
            jax.make_jaxpr(run, axis_env=[('data', 8)])(variables, jnp.zeros((1, 32, 32, 3)))
        ).count('= psum')

    norms = SMALL[name][3]
    assert reductions(train=True) == 2 * norms  # the mean, then the deviations from it
    assert reductions(train=False) == 0
    if norms and 'frozen_norm' in models.schema('segmentation', name):
        assert reductions(train=True, frozen_norm=True) == 0


@pytest.mark.parametrize(
    'name, expected',
    [
        ('pspnet', {2: 2 * 2, 4: 2 * 2}),
        ('deeplab_v2', {2: 6, 4: 3, 6: 1, 12: 1, 18: 1, 24: 1}),
        ('deeplab_largefov', {2: 3, 12: 1}),
    ],
)
def test_dilated_convolutions_can_be_replaced(name, expected):
    dilations = {}

    def dilated_conv(features, kernel_size, *, dilation, **args):
        dilations[dilation] = dilations.get(dilation, 0) + 1
        assert kernel_size == (3, 3) and dilation > 1
        return Conv(features, kernel_size, dilation=dilation, **args)

    _, variables = shapes_of(small(name, dilated_conv=dilated_conv))
    assert dilations == expected
    chex.assert_trees_all_equal_shapes(variables, shapes_of(small(name))[1])


# --- in the supervised pipeline -------------------------------------------------------------------


def pipeline(name, **args):
    """Returns the stage of supervised training on 5 classes."""
    config = config_lib.defaults('supervised')
    config_lib.choose(config, 'model', name)
    config_lib.update(
        config,
        model={'width': 0.125, **SMALL[name][0], **args},
        train=dict(batch_size=8, num_steps=30),
        augment=dict(crop=(64, 64)),
        data=dict(eval_size=(64, 64)),
        optim=dict(name='sgd', momentum=0.0, learning_rate=0.05, schedule='constant'),
    )
    config_lib.validate(config)
    (stage,) = supervised.make_stages(config, SPEC)
    return stage


def one_step(stage, state, batch):
    keys = rng.streams(rng.root(0, 'test'), stage.streams, state.step, parallel.device_index())
    return stage.train_step(state, batch, keys)


@pytest.mark.slow
@NETS
def test_supervised_training_accepts_the_net(name):
    stage = pipeline(name)
    batch = train_batch()
    state = jax.eval_shape(lambda: stage.init(jax.random.key(0), batch, {}))
    step = jax.vmap(
        lambda state, batch: one_step(stage, state, batch), (None, 0), axis_name=parallel.AXIS
    )
    after, metrics = jax.eval_shape(step, state, jax.tree.map(lambda x: x[None], batch))
    heads = {'bisenet': {'loss_aux_context8', 'loss_aux_context16'}, 'pspnet': {'loss_aux_layer3'}}
    assert set(metrics) == {'loss', 'loss_main', 'learning_rate', *heads.get(name, ())}
    per_device = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), after)
    chex.assert_trees_all_equal_shapes_and_dtypes(per_device, state)


@pytest.fixture
def quick_compilation():
    before = jax.config.read('jax_disable_most_optimizations')
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', before)


@pytest.mark.slow
@pytest.mark.usefixtures('quick_compilation')
@pytest.mark.parametrize(
    'name', [pytest.param('bisenet', marks=pytest.mark.slow), 'deeplab_largefov']
)
def test_a_narrow_net_learns_the_batch(name):
    stage = pipeline(name, **({} if name == 'bisenet' else {'dropout': 0.0}))
    batch = train_batch(rows=2, size=(64, 64))
    topology = parallel.topology('pmap', 1)
    one_step_of = chex.assert_max_traces(lambda state, batch: one_step(stage, state, batch), n=1)
    step = topology.spmd(one_step_of, num_args=2)
    state = topology.put_replicated(parallel.to_host(stage.init(jax.random.key(0), batch, {})))
    losses = []
    for _ in range(3):
        state, metrics = step(state, topology.put_batch(batch))
        losses.append(float(parallel.to_host(metrics['loss']).value()))
    chex.assert_tree_all_finite((losses, parallel.to_host(state.params)))
    assert losses[2] < losses[0]
