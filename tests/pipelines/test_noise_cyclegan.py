"""The noise injection CycleGAN: a step against the written-out equations, devices, resuming."""

import dataclasses
import functools
import math
import pathlib

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import NUM_CLASSES, SPEC, eval_batches, train_batch

from segjax import config as config_lib
from segjax import models, pipelines
from segjax.config import config_file
from segjax.core import parallel, rng
from segjax.data import labels
from segjax.errors import InputError
from segjax.models.segmentation.erfnet import ERFNet
from segjax.modes.table import plan, spec
from segjax.ops import noise
from segjax.pipelines import noise_cyclegan
from segjax.protocol import Mean
from segjax.tasks import segmentation
from segjax.tasks.evaluation import Evaluation
from segjax.train import driver, initialization, stage_functions
from segjax.train.stop import Preempted, StopSignal

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')

NETS = ('segmenter', 'painter', 'discriminator')


class Tiny(ERFNet):
    """A net with two convolutions, a batch norm and ERFNet's arguments. Compiles fast."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Conv(6, (3, 3), use_bias=False, dtype=self.dtype, name='first')(x)
        x = nn.BatchNorm(
            not train, momentum=0.9, axis_name=self.axis_name, dtype=self.dtype, name='bn'
        )(x)
        return {
            'logits': nn.Conv(self.num_classes, (3, 3), dtype=self.dtype, name='last')(nn.relu(x))
        }


@pytest.fixture(autouse=True)
def tiny_nets(monkeypatch):
    # The schema of a pipeline is read with the published nets, whose docstrings explain the fields.
    pipelines.load('supervised')
    monkeypatch.setitem(models.NETS['segmentation'], 'erfnet', Tiny)


def make_config(**sections):
    config = config_lib.defaults('noise_cyclegan')
    sgd = dict(name='sgd', momentum=0.0, learning_rate=0.05, schedule='constant')
    config_lib.update(
        config,
        train=dict(batch_size=8, num_steps=30),
        augment=dict(crop=(32, 64)),
        data=dict(eval_size=(32, 64), void_class=True),
        discriminator=dict(features=4, num_layers=2, forms='naive'),
        cycle=dict(pool_size=6),
        probes=('none', 'quantize:2'),
        # Plain SGD: Adam would turn the rounding noise of a zero gradient into full steps.
        optim=sgd,
        optim_discriminator=sgd,
    )
    config_lib.update(config, **sections)
    return config


def stage_of(config, number=-1):
    return noise_cyclegan.make_stages(config, SPEC)[number]


def keys_of(stage, root, step, device, shared_step):
    return stage_functions.stage_keys(stage, root, step, device, shared_step)


def run_steps(config, num_steps=1, devices=1, mode='pmap', batch=None, number=-1):
    """Returns (state at the start, state after the steps, metrics of each step).

    Fails if the step is traced twice.
    """
    stage, topology = stage_of(config, number), parallel.topology(mode, devices)
    batch = batch or train_batch()
    root = rng.root(0, 'test')
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def step(state, batch):
        keys = keys_of(stage, root, state.step, parallel.device_index(), state.step)
        state, metrics = stage.train_step(state, batch, keys)
        return state, parallel.sum_over_devices(dict(metrics)), parallel.replica_mismatch(state)

    step = topology.spmd(step, num_args=2)
    start = parallel.to_host(stage.init(root, batch, {}))
    state, history = topology.put_replicated(start), []
    for _ in range(num_steps):
        state, metrics, mismatch = jax.block_until_ready(step(state, topology.put_batch(batch)))
        history.append({name: float(parallel.to_host(m).value()) for name, m in metrics.items()})
        assert int(mismatch) == 0
    return start, parallel.to_host(state), history


def of_nets(tree):
    return {net: tree[net] for net in NETS if net in tree}


# --- the nets and the objective -------------------------------------------------------------------


def test_nets_have_the_published_sizes(monkeypatch):
    monkeypatch.setitem(models.NETS['segmentation'], 'erfnet', ERFNet)
    config = config_file.load('configs/noise_cyclegan.py')
    spec = SPEC.__class__(**{**vars(SPEC), 'classes': labels.CITYSCAPES})
    (stage,) = noise_cyclegan.make_stages(config, spec)
    batch = {'image': jnp.zeros((1, 256, 512, 3), jnp.uint8)}
    state = jax.eval_shape(stage.init, jax.random.key(0), batch, {})
    sizes = {net: sum(x.size for x in jax.tree.leaves(tree)) for net, tree in state.params.items()}
    assert sizes == {'segmenter': 2_064_256, 'painter': 2_067_279, 'discriminator': 2_764_737}
    assert state.extra['pool']['images'].shape == (50, 256, 512, 3)


def test_the_papers_weights_are_those_of_cyclegan():
    """alpha = 1/2, beta = 1/11 and gamma = 20/31 weigh the terms as CycleGAN does.

    J_seg, J_rec_x, J_adv and J_rec_y have the weights 10 : 10 : 1 : 10, over 31.
    """
    _, _, (metrics,) = run_steps(make_config())
    expected = (
        10 * metrics['loss_seg']
        + 10 * metrics['loss_rec_x']
        + metrics['loss_adv']
        + 10 * metrics['loss_rec_y']
    )
    assert metrics['loss'] == pytest.approx(expected / 31, rel=1e-5)


INJECTORS = [
    dict(name='none'),
    dict(name='max_only'),
    dict(name='quantize', bits=2),
    dict(name='gaussian', snr=7.38),
]


def written_out(config, start, batch, root):
    """Computes one iteration of Table 1 in plain JAX, from the equations.

    Returns (parameters, batch statistics, values of all losses, synthetic images).
    """
    stage = stage_of(config)
    keys = keys_of(stage, root, 0, 0, 0)
    x = jnp.asarray(batch['image'], jnp.float32) / 127.5 - 1
    label = np.where(batch['label'] == 255, NUM_CLASSES, batch['label'])
    y = np.eye(NUM_CLASSES + 1, dtype=np.float32)[label]
    rows, pixels = len(x), x.shape[1] * x.shape[2]
    net = Tiny(NUM_CLASSES + 1), Tiny(3)
    discriminator = noise_cyclegan.make_nets(config, NUM_CLASSES + 1).discriminator
    injector = noise.Injector(**config.noise)
    example_keys = [jax.random.fold_in(keys['noise'], 2 * int(i)) for i in batch['index']]

    def apply(net, name, params, statistics, x):
        outputs, statistics = net.apply(
            {'params': params[name], **statistics}, x, True, mutable=['batch_stats']
        )
        return outputs['logits'], statistics

    def cross_entropy(logits):  # Eqs. 1 and 4, mean over images
        return -(y * jax.nn.log_softmax(logits)).sum() / (rows * pixels)

    def generators(params):
        logits, g = apply(net[0], 'segmenter', params, start.model_state['segmenter'], x)
        noisy = noise.inject(injector, jnp.tanh(logits / 8), jnp.stack(example_keys))
        reconstruction, f = apply(net[1], 'painter', params, start.model_state['painter'], noisy)
        synthetic, f_map = apply(
            net[1], 'painter', params, start.model_state['painter_backward'], y
        )
        again, g_again = apply(
            net[0], 'segmenter', params, start.model_state['segmenter_backward'], synthetic
        )
        verdict = discriminator.apply({'params': start.params['discriminator']}, synthetic)
        alpha, beta, gamma = config.cycle.alpha, config.cycle.beta, config.cycle.gamma
        losses = {
            'loss_seg': cross_entropy(logits),
            'loss_rec_x': jnp.abs(reconstruction - x).sum()
            / (rows * pixels * 3),  # Eq. 3, channels averaged
            'loss_adv': ((verdict - 1) ** 2).mean(),  # Eq. 2
            'loss_rec_y': cross_entropy(again),
        }
        forward = alpha * losses['loss_seg'] + (1 - alpha) * losses['loss_rec_x']  # Eq. 5
        backward = beta * losses['loss_adv'] + (1 - beta) * losses['loss_rec_y']  # Eq. 6
        total = gamma * forward + (1 - gamma) * backward  # Eq. 7
        statistics = {
            'segmenter': g,
            'painter': f,
            'segmenter_backward': g_again,
            'painter_backward': f_map,
        }
        return total, (synthetic, statistics, losses)

    def critic(params, synthetic):  # Eq. 8
        real, fake = (discriminator.apply({'params': params}, image) for image in (x, synthetic))
        return ((real - 1) ** 2).mean() + (fake**2).mean()

    trained = {name: start.params[name] for name in ('segmenter', 'painter')}
    (total, (synthetic, statistics, losses)), grads = jax.value_and_grad(generators, has_aux=True)(
        trained
    )
    value, critic_grads = jax.value_and_grad(critic)(start.params['discriminator'], synthetic)
    rate = config.optim.learning_rate
    params = jax.tree.map(
        lambda p, g: p - rate * g,
        {**trained, 'discriminator': start.params['discriminator']},
        {**grads, 'discriminator': critic_grads},
    )
    return params, statistics, losses | {'loss': total, 'loss_discriminator': value}, synthetic


@pytest.mark.parametrize('injector', INJECTORS, ids=lambda i: i['name'])
def test_a_step_is_that_of_the_papers_equations(injector):
    # The pool is larger than the batch, so it returns the images of the first step unchanged.
    config = make_config(noise=injector, cycle=dict(pool_size=20))
    batch, root = train_batch(), rng.root(0, 'test')
    start, state, (metrics,) = run_steps(config, batch=batch)
    params, statistics, losses, synthetic = written_out(config, start, batch, root)
    for name, value in losses.items():
        assert metrics[name] == pytest.approx(float(value), rel=1e-4), name
    for net in NETS:
        moved = jax.tree.map(np.subtract, state.params[net], start.params[net])
        expected = jax.tree.map(np.subtract, params[net], start.params[net])
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(moved), jax.tree.leaves(expected)
        ):
            assert np.linalg.norm(b) > 0, path
            # Numbers that round to the other side of a level or of a ReLU move gradients.
            assert np.linalg.norm(a - b) <= 0.02 * np.linalg.norm(b) + 1e-7, (net, path)
    chex.assert_trees_all_close(
        state.model_state, jax.tree.map(np.asarray, statistics), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(state.extra['pool']['images'][:8], synthetic, atol=1e-4)
    assert state.extra['pool']['count'] == 8
    assert ('SNR' in metrics) == (injector['name'] != 'none')


def ratios(config):
    """Returns the dB of max-only and 4, 3, 2, 1 bits on logits like those of a trained ERFNet.

    The net has 20 classes and 27 mIoU on `streets`. The means and deviations of the largest logit
    of a pixel and of all smaller logits are copied from it.
    """
    rng = np.random.default_rng(0)
    logits = rng.normal(-3.2, 2.5, (1, 200, 200, 20))
    logits[..., 0] = rng.normal(4.2, 1.6, (1, 200, 200))
    latent = noise_cyclegan.latent_of(jnp.float32(logits), config.cycle)
    injectors = [
        noise.Injector('max_only'),
        *(noise.Injector('quantize', bits=bits) for bits in (4, 3, 2, 1)),
    ]
    return [
        float(noise.measured_snr(latent, noise.inject(one, latent, None))[0]) for one in injectors
    ]


PUBLISHED_SNRS = [0.22, 21.02, 14.50, 7.38, -0.55]


@pytest.mark.parametrize('variant', ['', 'camvid', 'camvid_quick', 'quick', 'smoke'])
def test_the_noise_has_the_published_signal_to_noise_ratios(variant):
    decibels = ratios(config_file.load(f'configs/noise_cyclegan.py:{variant}'))
    np.testing.assert_allclose(decibels[:4], PUBLISHED_SNRS[:4], atol=0.5)
    # No smooth bounded function of these logits has the published ratio of one bit. 3 dB are
    # missing.
    assert decibels[4] == pytest.approx(PUBLISHED_SNRS[4] - 3, abs=0.5)


def test_other_latents_miss_the_published_signal_to_noise_ratios():
    raw = ratios(config_file.load('configs/noise_cyclegan.py:range=raw,gain=1'))
    assert np.ptp(raw[1:]) < 0.1  # every quantiser clips alike
    tanh = ratios(config_file.load('configs/noise_cyclegan.py:range=tanh_noise_only,gain=1'))
    assert min(np.subtract(tanh[1:], PUBLISHED_SNRS[1:])) > 10


def test_adam_is_the_papers():
    config = config_file.load('configs/noise_cyclegan.py')
    for section in (config.optim, config.optim_discriminator):
        transform = noise_cyclegan.optim.make(section, 100, {'net': {'w': jnp.zeros(3)}})
        reference = optax.adam(2e-4, b1=0.5, b2=0.999)
        params = {'net': {'w': jnp.zeros(3)}}
        ours, theirs = transform.init(params), reference.init(params)
        for step in range(4):  # of the constant half
            grads = {'net': {'w': jnp.array([1.0, -2.0, 0.5]) * (step + 1)}}
            a, ours = transform.update(grads, ours, params, step=jnp.int32(step))
            b, theirs = reference.update(grads, theirs)
            chex.assert_trees_all_close(a, b, rtol=1e-5)
        rates = [float(noise_cyclegan.optim.schedule(section, 100)(t)) for t in (0, 50, 75, 100)]
        np.testing.assert_allclose(rates, [2e-4, 2e-4, 1e-4, 0], atol=1e-9)


def test_options_of_the_facts_change_what_they_say():
    """Compares each option with the default by the loss that it changes, on the same parameters."""
    batch, root, topology = train_batch(), rng.root(0, 'test'), parallel.topology('pmap', 1)

    def losses(**cycle):
        config = make_config(noise=dict(name='none'), cycle=cycle)
        stage, nets = stage_of(config), noise_cyclegan.make_nets(config, NUM_CLASSES + 1)
        system = noise_cyclegan.System(config, SPEC, nets, noise.Injector(**config.noise))
        loss_of = noise_cyclegan.make_generator_loss(system)

        def terms(state, batch):
            return loss_of(state)(
                state.params, state.model_state, batch, keys_of(stage, root, 0, 0, 0)
            )[0]

        state = topology.put_replicated(parallel.to_host(stage.init(root, batch, {})))
        values = topology.spmd(terms, num_args=2)(state, topology.put_batch(batch))
        return {
            f'loss_{name}': float(parallel.to_host(term).value()) for name, term in values.items()
        }

    default = losses()
    assert losses(l1_reduction='sum_channels')['loss_rec_x'] == pytest.approx(
        3 * default['loss_rec_x'], rel=1e-5
    )
    raw = losses(latent_range='raw', latent_gain=1.0)
    tanh = losses(latent_range='tanh', latent_gain=1.0)
    assert tanh['loss_seg'] != pytest.approx(raw['loss_seg'], rel=1e-4)
    # Of S + 1 logits in [-1, 1] the best has log-probability -log(1 + S e^-2).
    assert tanh['loss_seg'] > math.log(1 + NUM_CLASSES * math.exp(-2))
    for other in (
        losses(latent_range='tanh_noise_only', latent_gain=1.0),
        losses(latent_range='raw'),
    ):
        assert other['loss_seg'] == pytest.approx(raw['loss_seg'], rel=1e-6)
        assert other['loss_rec_x'] != pytest.approx(raw['loss_rec_x'], rel=1e-4)
    assert default['loss_seg'] == pytest.approx(raw['loss_seg'], rel=1e-6)
    assert default['loss_rec_x'] != pytest.approx(raw['loss_rec_x'], rel=1e-4)
    assert losses(painter_input='softmax')['loss_rec_x'] != pytest.approx(
        default['loss_rec_x'], rel=1e-4
    )


def test_each_cycle_keeps_its_own_batch_statistics_or_both_are_mixed():
    _, mixed, _ = run_steps(make_config(noise=dict(name='none'), cycle=dict(statistics='mixed')))
    start, each, _ = run_steps(make_config(noise=dict(name='none')))
    chex.assert_trees_all_close(mixed.params, each.params, rtol=1e-4, atol=1e-6)
    x = jnp.asarray(train_batch()['image'], jnp.float32) / 127.5 - 1
    first = nn.Conv(6, (3, 3), use_bias=False).apply(
        {'params': start.params['segmenter']['first']}, x
    )

    def mean(state, net):
        return state.model_state[net]['batch_stats']['bn']['mean']

    of_images = 0.1 * first.mean((0, 1, 2))  # the old mean is 0, the new one counts for a tenth
    np.testing.assert_allclose(mean(each, 'segmenter'), of_images, atol=1e-5)
    of_synthetic = mean(each, 'segmenter_backward')
    np.testing.assert_allclose(mean(mixed, 'segmenter'), 0.9 * of_images + of_synthetic, atol=1e-5)
    assert mixed.model_state.keys() == {'segmenter', 'painter'}


# --- the common start -----------------------------------------------------------------------------


def start_config(**sections):
    return make_config(start=dict(num_steps=3), compare=('none',), **sections)


def test_the_first_stage_is_supervised_training_of_the_segmenter():
    """Compares with a written-out step of SGD on the cross-entropy of the logits."""
    batch = train_batch()
    start, state, (metrics,) = run_steps(start_config(), batch=batch, number=0)
    assert state.params.keys() == {'segmenter'}
    x = jnp.asarray(batch['image'], jnp.float32) / 127.5 - 1
    y = np.eye(NUM_CLASSES + 1, dtype=np.float32)[
        np.where(batch['label'] == 255, NUM_CLASSES, batch['label'])
    ]

    def loss(params):
        variables = {'params': params, **start.model_state['segmenter']}
        outputs, statistics = Tiny(NUM_CLASSES + 1).apply(
            variables, x, True, mutable=['batch_stats']
        )
        return -(y * jax.nn.log_softmax(outputs['logits'])).sum(-1).mean(), statistics

    (value, statistics), grads = jax.value_and_grad(loss, has_aux=True)(start.params['segmenter'])
    moved = jax.tree.map(lambda p, g: p - 0.05 * g, start.params['segmenter'], grads)
    assert metrics['loss'] == pytest.approx(float(value), rel=1e-5)
    chex.assert_trees_all_close(
        state.params['segmenter'], jax.tree.map(np.asarray, moved), atol=1e-5
    )
    chex.assert_trees_all_close(
        state.model_state['segmenter'], jax.tree.map(np.asarray, statistics), atol=1e-5
    )


def test_every_cyclegan_begins_from_the_segmenter_of_the_first_stage():
    stages = noise_cyclegan.make_stages(start_config(), SPEC)
    assert [stage.name for stage in stages] == ['start', 'cyclegan_none', 'cyclegan_quantize_2bit']
    assert [stage.num_steps for stage in stages] == [3, 30, 30]
    _, trained, _ = run_steps(start_config(), num_steps=2, number=0)
    for stage in stages[1:]:
        state = stage.init(rng.root(0, 'test'), train_batch(), {'start': trained})
        chex.assert_trees_all_equal(state.params['segmenter'], trained.params['segmenter'])
        for net in ('segmenter', 'segmenter_backward'):
            chex.assert_trees_all_equal(state.model_state[net], trained.model_state['segmenter'])
        fresh = stage.init(rng.root(0, 'test'), train_batch(), {})
        chex.assert_trees_all_equal(state.opt_state, fresh.opt_state)
        for net in ('painter', 'discriminator'):
            chex.assert_trees_all_equal(state.params[net], fresh.params[net])
        assert state.step == 0


def test_all_stages_and_plain_erfnet_begin_from_the_nets_of_the_seed(one_device, tmp_path):
    cyclegans = smoke_config(1)
    config_lib.update(cyclegans, compare=('none',), start=dict(num_steps=1))
    plain = config_file.load('configs/noise_cyclegan.py:smoke,system=erfnet')
    begun = {}
    for name, config in (('cyclegans', cyclegans), ('plain', plain)):
        run, stages = driver.checked_run(config, str(tmp_path / name), 'train', trace_steps=False)
        begun |= {
            stage.name: initialization.initial_state(run, stage, {}).params for stage in stages
        }
    assert begun.keys() == {'start', 'cyclegan_none', 'cyclegan_gaussian_7.38dB', 'segmentation'}
    for name, params in begun.items():
        chex.assert_trees_all_equal(params['segmenter'], begun['segmentation']['segmenter'])
        if name.startswith('cyclegan'):
            chex.assert_trees_all_equal(params, begun['cyclegan_none'])
    run, (stage,) = driver.open_run(
        config_lib.from_json(plain.to_dict() | {'seed': 1}), str(tmp_path / 'other'), 'train'
    )
    other = initialization.initial_state(run, stage, {}).params
    pairs = zip(jax.tree.leaves(other), jax.tree.leaves(begun['segmentation']), strict=True)
    assert any(np.any(a != b) for a, b in pairs)


@pytest.mark.parametrize(
    'text, steps, start',
    [
        ('', 148_750, 0),
        ('quick', 300, 1000),
        ('quick,steps=7,start=5', 7, 5),
        ('quick,start=0', 300, 0),
        ('quick,system=erfnet,steps=7,start=5', 7, None),
        ('quick,system=start,steps=7,start=5', 5, None),
        ('system=start', 0, None),  # begins as drawn: the paper has no such training
    ],
)
def test_configs_choose_the_steps_of_a_system_and_of_its_start(text, steps, start):
    config = config_file.load(f'configs/noise_cyclegan.py:{text}')
    assert config.train.num_steps == steps
    assert (config.start.num_steps if 'start' in config else None) == start
    assert config.evaluate.resolution == 'image'


def published_difference(table, difference):
    """Returns the published value of a column in row `higher` minus row `lower`.

    The published SNR of Gaussian noise is the one that was set.
    """
    first, second = (
        table.row(key).published[difference.column] for key in (difference.higher, difference.lower)
    )
    return first - second


def test_the_table_of_the_paper_states_its_claims_only_where_the_experiment_can_answer():
    table = spec.load(pathlib.Path('configs/tables/noise_cyclegan_table2.py'))
    assert {row.after for row in table.shown} == {'start'}
    assert all('start.num_steps=0' in row.overrides for row in table.shown if row.key != 'erfnet')
    for claim in table.claims:
        assert bool(claim.only_if) == (claim.column == 'mIoU'), claim.text
        for condition in claim.only_if:  # the published numbers meet the conditions
            difference = published_difference(table, condition)
            assert condition.at_least is None or difference >= condition.at_least
            assert condition.at_most is None or abs(difference) <= condition.at_most
    pairs = [c for claim in table.claims for c in claim.only_if if c.column == 'SNR']
    assert [(c.higher, c.lower) for c in pairs] == [
        ('quantize_2bit', 'gaussian_7.38dB'),
        ('quantize_3bit', 'gaussian_14.5dB'),
        ('quantize_4bit', 'gaussian_21.02dB'),
    ]


@pytest.mark.parametrize(
    'scale, start, steps', [('quick', 3000, 4000), ('pilot', 600, 800), ('paper', 0, 148_750)]
)
def test_all_rows_of_the_table_begin_from_one_net_and_have_equal_steps(
    scale, start, steps, tmp_path
):
    made = plan.make_table_plan('configs/tables/noise_cyclegan_table2.py', scale, str(tmp_path))
    for job in made.runs:
        is_start = job.row.key == 'start'
        assert job.config.train.num_steps == (start if is_start else steps)
        assert job.config.init_from.path == (
            '' if is_start else str(tmp_path / f'start/seed_{job.seed}')
        )
        assert job.config.get('compare', ()) == ()


# --- devices, resuming ----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def exact_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.NETS['segmentation'], 'erfnet', Tiny)
        return steps_in_float64(1, 'pmap')


def small_batch(**options):
    """Returns a batch of small images: convolutions in float64 are slow on CPUs."""
    return train_batch(size=(16, 32), **options)


def steps_in_float64(devices, mode):
    """Returns (state, metrics) after three steps.

    The pool of six is smaller than the batch of eight, so the first step already draws old images.
    """
    with jax.enable_x64(True):
        config = make_config(train=dict(dtype='float64'), noise=dict(name='gaussian', snr=7.38))
        # Parameters are rounded to float32 in every step. A small rate keeps that noise small in D.
        config.optim_discriminator.learning_rate = 0.001
        _, state, history = run_steps(config, 3, devices, mode, small_batch())
        return state, history


def test_micro_batches_see_the_noise_of_the_whole_batch():
    """The measured ratio of Gaussian noise depends on the random numbers, and not on the latent."""
    ratios = []
    for accumulate in (1, 4):
        config = make_config(
            train=dict(accumulate=accumulate), noise=dict(name='gaussian', snr=7.38)
        )
        _, _, (metrics,) = run_steps(config, batch=small_batch())
        ratios.append(metrics['SNR'])
    assert ratios[0] != pytest.approx(7.38, abs=1e-4), 'the numbers show'
    assert ratios[1] == pytest.approx(ratios[0], abs=2e-6)


@pytest.mark.parametrize('devices, mode', [(8, 'pmap'), (2, 'shard_map')])
def test_steps_are_the_same_on_any_number_of_devices(exact_steps, devices, mode):
    expected, expected_history = exact_steps
    state, history = steps_in_float64(devices, mode)
    for metrics, expected_metrics in zip(history, expected_history, strict=True):
        assert metrics == pytest.approx(expected_metrics, rel=1e-5)
    assert state.extra['pool']['count'] == expected.extra['pool']['count'] == 6
    chex.assert_trees_all_close(
        state.extra['pool']['images'], expected.extra['pool']['images'], atol=1e-5
    )
    chex.assert_trees_all_close(
        of_nets(state.params), of_nets(expected.params), rtol=1e-4, atol=1e-6
    )


def start_in_float64(devices):
    with jax.enable_x64(True):
        _, state, history = run_steps(
            start_config(train=dict(dtype='float64')), 3, devices, batch=small_batch(), number=0
        )
        return state, history


def test_first_stage_is_the_same_on_eight_devices():
    expected, expected_history = start_in_float64(1)
    state, history = start_in_float64(8)
    for metrics, expected_metrics in zip(history, expected_history, strict=True):
        assert metrics == pytest.approx(expected_metrics, rel=1e-6)
    chex.assert_trees_all_close(state.params, expected.params, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(state.model_state, expected.model_state, rtol=1e-5, atol=1e-7)


@pytest.fixture
def one_device(monkeypatch):
    """Makes the driver run on the first device, for which programs compile much faster."""
    first = parallel.topology('pmap', 1)

    def topology(mode, options=()):
        return dataclasses.replace(first, mode=mode, options=options)

    monkeypatch.setattr(parallel, 'topology', topology)


def smoke_config(num_steps):
    config = config_file.load('configs/noise_cyclegan.py:smoke,noise=gaussian')
    config_lib.update(
        config,
        train=dict(num_steps=num_steps),
        logging=dict(checkpoint_every=0, eval_every=0, num_pictures=0),
    )
    return config


@pytest.mark.slow
def test_a_run_resumed_in_the_middle_is_bit_identical_pool_included(
    one_device, tmp_path, monkeypatch
):
    config = smoke_config(4)
    whole = driver.train(config, str(tmp_path / 'whole'))
    steps = []
    with monkeypatch.context() as patch, pytest.raises(Preempted, match='saved at step 2'):
        patch.setattr(StopSignal, 'reached', lambda self: steps.append(1) or len(steps) == 3)
        driver.train(config, str(tmp_path / 'parts'))
    assert driver.train(config, str(tmp_path / 'parts')) == whole
    run, (stage,) = driver.open_run(config, str(tmp_path / 'whole'), 'evaluate')
    other, _ = driver.open_run(config, str(tmp_path / 'parts'), 'evaluate')
    states = [parallel.to_host(driver.load_stage(r, stage, {}, 'last')) for r in (run, other)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert (
        states[0].extra['pool']['count'] == 6
        and np.abs(states[0].extra['pool']['images']).min(0).max() > 0
    )
    lines = [
        (tmp_path / name / 'cyclegan/metrics.jsonl').read_bytes() for name in ('whole', 'parts')
    ]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_a_run_stopped_in_the_first_and_in_the_second_stage_is_bit_identical(
    one_device, tmp_path, monkeypatch
):
    config = smoke_config(2)
    config_lib.update(config, start=dict(num_steps=2))
    whole = driver.train(config, str(tmp_path / 'whole'))
    for stage in ('start', 'cyclegan'):
        folder = tmp_path / 'parts' / stage
        with (
            monkeypatch.context() as patch,
            pytest.raises(Preempted, match=f'{stage}.* saved at step 1'),
        ):
            patch.setattr(StopSignal, 'reached', lambda self, folder=folder: folder.exists())
            driver.train(config, str(tmp_path / 'parts'))
    assert driver.train(config, str(tmp_path / 'parts')) == whole
    assert whole.keys() == {'start', 'cyclegan'}
    for stage in whole:
        lines = [
            (tmp_path / name / stage / 'metrics.jsonl').read_bytes() for name in ('whole', 'parts')
        ]
        assert lines[0] == lines[1], stage


# --- unpaired data --------------------------------------------------------------------------------


def test_unpaired_images_join_the_forward_and_maps_the_backward_cycle():
    config = make_config(
        noise=dict(name='none'), unpaired=dict(batch_size=8), data=dict(labelled_fraction=0.5)
    )
    batch, other = train_batch(), train_batch(seed=3)
    unpaired = {f'photo/{k}': other[k] for k in ('image', 'weight', 'index')}
    unpaired |= {f'map/{k}': other[k] for k in ('label', 'weight', 'index')}
    _, _, (metrics,) = run_steps(config, batch={**batch, **unpaired})
    # A batch of twice as many pairs gives the same numbers, except for J_seg, which needs pairs.
    doubled = {k: np.concatenate([batch[k], other[k]]) for k in batch}
    _, _, (pairs,) = run_steps(
        make_config(noise=dict(name='none'), train=dict(batch_size=16)), batch=doubled
    )
    for name in ('loss_rec_x', 'loss_adv', 'loss_rec_y', 'loss_discriminator'):
        assert metrics[name] == pytest.approx(pairs[name], rel=1e-5), name
    assert metrics['loss_seg'] != pytest.approx(pairs['loss_seg'], rel=1e-6)


def test_unpaired_inputs_are_the_rest_of_the_data_and_have_an_order_of_their_own():
    config = make_config(unpaired=dict(batch_size=4), data=dict(labelled_fraction=0.25))
    main = stage_of(config).train_input
    inputs = dict(main.unpaired)
    assert main.part == (0.0, 0.25) and main.features == ('image', 'label')
    assert inputs['photo'].part == (0.25, 1.0) and inputs['photo'].features == ('image',)
    assert inputs['map'].part == (0.0, 0.25) and inputs['map'].features == ('label',)
    assert {i.batch_size for i in inputs.values()} == {4}
    config.unpaired.maps = 'rest'
    assert dict(stage_of(config).train_input.unpaired)['map'].part == (0.25, 1.0)
    assert stage_of(make_config()).train_input.unpaired == ()


@pytest.mark.slow
def test_unpaired_steps_are_the_same_on_any_number_of_devices():
    expected, expected_history = semi_supervised_steps(1)
    state, history = semi_supervised_steps(2)
    for metrics, expected_metrics in zip(history, expected_history, strict=True):
        assert metrics == pytest.approx(expected_metrics, rel=1e-4)
    chex.assert_trees_all_close(state.extra['pool'], expected.extra['pool'], atol=1e-4)


def semi_supervised_steps(devices):
    """Returns (state, metrics) after two steps.

    Images that the pool keeps in the first step come back in the second.
    """
    other = small_batch(seed=3)
    unpaired = {f'photo/{k}': other[k] for k in ('image', 'weight', 'index')}
    unpaired |= {f'map/{k}': other[k] for k in ('label', 'weight', 'index')}
    config = make_config(
        noise=dict(name='none'),
        unpaired=dict(batch_size=8),
        data=dict(labelled_fraction=0.5),
    )
    config.optim_discriminator.learning_rate = 0.001
    _, state, history = run_steps(config, 2, devices, batch={**small_batch(), **unpaired})
    return state, history


@pytest.mark.slow
def test_a_semi_supervised_run_trains(one_device, tmp_path):
    config = smoke_config(2)
    config_lib.update(config, unpaired=dict(batch_size=8), data=dict(labelled_fraction=0.5))
    scores = driver.train(config, str(tmp_path))
    assert math.isfinite(scores['cyclegan']['PSNR']) and (tmp_path / 'report.html').exists()


# --- evaluation -----------------------------------------------------------------------------------


def totals(stage, state, batch_size, topology):
    root = rng.root(0, 'evaluate')

    def step(state, batch, number):
        keys = keys_of(stage, root, number, parallel.device_index(), 0)
        return parallel.sum_over_devices(dict(stage.eval_step(state, batch, keys)))

    step = topology.spmd(step, num_args=3)
    state = topology.put_replicated(state)
    sums = [
        parallel.to_host(step(state, topology.put_batch(batch), np.int32(i)))
        for i, batch in enumerate(eval_batches(batch_size))
    ]
    return jax.tree.map(lambda *x: sum(x), *sums)


def test_scores_do_not_depend_on_batch_size_or_devices_noise_included():
    config = make_config(noise=dict(name='gaussian', snr=5.0))
    stage = stage_of(config)
    _, state, _ = run_steps(config)
    whole = stage.finalize(totals(stage, state, 10, parallel.topology('pmap', 1)))
    parts = stage.finalize(totals(stage, state, 8, parallel.topology('pmap', 8)))
    assert parts['confusion'] == whole['confusion'] and parts['mIoU'] == whole['mIoU']
    for name in ('PSNR', 'SNR', 'latent_residual'):
        assert parts[name] == pytest.approx(whole[name], rel=1e-5), name
    # Padding on the right of each image counts in the energy of the noise, not in the measurement.
    assert whole['SNR'] == pytest.approx(5.0, abs=0.3)
    assert whole['watermark'].keys() == {'trained', 'none', 'quantize_2bit'}
    lost = whole['watermark']['none']
    assert lost['PSNR_lost'] == pytest.approx(whole['PSNR'] - lost['PSNR'])


def test_psnr_and_mean_over_void_against_numpy():
    config = make_config(noise=dict(name='none'))
    stage = stage_of(config)
    _, state, _ = run_steps(config)
    scores = stage.finalize(totals(stage, state, 10, parallel.topology('pmap', 1)))
    (batch,) = eval_batches(10)
    x = batch['image'] / 127.5 - 1

    def apply(net, name, x):
        return net.apply({'params': state.params[name], **state.model_state[name]}, x, False)[
            'logits'
        ]

    latent = np.tanh(apply(Tiny(NUM_CLASSES + 1), 'segmenter', x) / 8)
    reconstruction = np.asarray(apply(Tiny(3), 'painter', latent))
    decibels = []
    for i, (height, width) in enumerate(batch['size']):
        error = (reconstruction[i] - x[i])[:height, :width]
        decibels.append(10 * np.log10(4 / np.mean(error**2)))
    assert scores['PSNR'] == pytest.approx(np.mean(decibels), abs=1e-3)
    assert 'SNR' not in scores
    assert 0 <= scores['latent_residual'] <= 1
    assert scores['mIoU_with_void'] is not None


def judge_of(config):
    """Returns the inputs of the evaluation, with an evaluation of G that does nothing."""
    nets = noise_cyclegan.make_nets(config, NUM_CLASSES + 1)
    system = noise_cyclegan.System(config, SPEC, nets, noise.Injector(**config.noise))
    of_segmenter = Evaluation(
        eval_step=lambda state, batch, keys: {},
        finalize=lambda metrics: {'mIoU': 0.5},
        monitor=('mIoU', 'max'),
        render=lambda state, batch, keys: {'prediction': None},
    )
    return noise_cyclegan.Judge(system, {'none': noise.Injector('none')}, of_segmenter)


def initial_state(judge):
    init = noise_cyclegan.make_init(judge.system)
    return init(jax.random.key(0), train_batch(), {})


def test_eval_step_alone_measures_every_injector_on_one_latent():
    judge = judge_of(make_config())
    state = initial_state(judge)
    (batch,) = eval_batches(10)
    keys = {'noise': jax.random.key(1)}
    metrics = jax.jit(functools.partial(noise_cyclegan.eval_step, judge))(state, batch, keys)
    assert set(metrics) == {'latent_residual', 'PSNR/trained', 'SNR/trained', 'PSNR/none'}
    latent = noise_cyclegan.segment_images(judge.system, state, batch)
    noisy = noise.inject(judge.system.injector, latent, None)
    valid = segmentation.valid_pixels(batch['size'], batch['image'])
    expected = np.asarray(noise.measured_snr(latent, noisy, valid))[batch['weight'] > 0].mean()
    assert float(metrics['SNR/trained'].value()) == pytest.approx(float(expected), rel=1e-3)
    assert float(metrics['PSNR/none'].count) == batch['weight'].sum()


def test_finalize_alone_reports_the_cost_of_each_probe():
    one = np.float32(1)
    values = {'PSNR/trained': 20, 'SNR/trained': 7, 'PSNR/none': 18, 'latent_residual': 0.25}
    metrics = {name: Mean(np.float32(value), one) for name, value in values.items()}
    scores = noise_cyclegan.finalize(judge_of(make_config()), metrics)
    assert list(scores) == ['mIoU', 'PSNR', 'SNR', 'latent_residual', 'watermark']
    assert (scores['mIoU'], scores['PSNR'], scores['SNR']) == (0.5, 20, 7)
    assert scores['watermark']['none'] == {'PSNR': 18, 'SNR': None, 'PSNR_lost': 2}


@pytest.mark.parametrize('name', ['none', 'quantize'])
def test_render_alone_leaves_out_equal_pictures(name):
    judge = judge_of(make_config(noise=dict(name=name)))
    state = initial_state(judge)
    (batch,) = eval_batches(10)
    pictures = noise_cyclegan.render(judge, state, batch, {'noise': jax.random.key(1)})
    with_noise = {'noisy_latent_residual', 'reconstruction_without_noise'}
    assert with_noise & set(pictures) == (set() if name == 'none' else with_noise)
    assert 'prediction' in pictures


def test_pictures_show_both_cycles_and_the_latent():
    config = make_config()
    stage = stage_of(config)
    _, state, _ = run_steps(config)
    (batch,) = eval_batches(10)
    keys = keys_of(stage, rng.root(0, 'evaluate'), 0, 0, 0)
    pictures = jax.jit(stage.render)(state, batch, keys)
    for name in (
        'reconstruction',
        'reconstruction_without_noise',
        'synthetic',
        'latent_residual',
        'resegmentation',
    ):
        chex.assert_shape(pictures[name].pixels, (10, 32, 64, 3))
    assert {picture.pixels.dtype for picture in pictures.values()} == {jnp.dtype('uint8')}
    probabilities = jax.jit(stage.predict)(state, batch['image'])
    chex.assert_shape(probabilities, (10, 32, 64, NUM_CLASSES))
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)


def test_averaged_nets_are_those_that_are_evaluated():
    config = make_config(train=dict(ema=0.5), noise=dict(name='none'))
    stage = stage_of(config)
    _, state, _ = run_steps(config, num_steps=2)
    assert state.extra['ema']['params'].keys() == {'segmenter', 'painter'}
    image = train_batch()['image']
    averaged = jax.jit(stage.predict)(state, image)
    by_hand = state.replace(
        params={**state.params, **state.extra['ema']['params']},
        model_state=state.extra['ema']['model_state'],
        extra={**state.extra, 'ema': state.extra['ema']},
    )
    plain = stage_of(make_config(noise=dict(name='none')))
    np.testing.assert_allclose(averaged, jax.jit(plain.predict)(by_hand, image), atol=1e-6)
    assert np.abs(averaged - jax.jit(plain.predict)(state, image)).max() > 1e-4


# --- stages and wrong settings --------------------------------------------------------------------


def test_injectors_to_compare_are_stages_of_their_own():
    names = [
        s.name
        for s in noise_cyclegan.make_stages(make_config(compare=('none', 'gaussian:20')), SPEC)
    ]
    assert names == ['cyclegan_none', 'cyclegan_gaussian_20dB', 'cyclegan_quantize_2bit']
    assert [s.name for s in noise_cyclegan.make_stages(make_config(), SPEC)] == ['cyclegan']


def program(config) -> str:
    """Returns the training step before it is compiled."""
    stage, batch, root = stage_of(config), train_batch(), rng.root(0, 'test')

    def step(state, batch):
        return stage.train_step(state, batch, keys_of(stage, root, state.step, 0, state.step))

    mapped = parallel.topology('pmap', 1).spmd(step, num_args=2)
    return mapped.lower(
        jax.eval_shape(stage.init, root, batch, {}), {k: v[None] for k, v in batch.items()}
    ).as_text()


def test_every_injector_begins_with_the_parameters_of_init_from(one_device, tmp_path):
    config = smoke_config(1)
    driver.train(config, str(tmp_path / 'first'))
    config_lib.update(
        config,
        seed=1,
        compare=('none',),
        train=dict(num_steps=0),
        init_from=dict(
            path=str(tmp_path / 'first'), nets=('(segmenter|painter|discriminator)/.*',)
        ),
    )
    run, stages = driver.checked_run(config, str(tmp_path / 'second'), 'train', trace_steps=False)
    states = {}
    for stage in stages:
        states[stage.name] = initialization.initial_state(run, stage, states)
    first, second = (states[stage.name].params for stage in stages)
    source, (stage,) = driver.open_run(smoke_config(1), str(tmp_path / 'first'), 'evaluate')
    trained = parallel.to_host(driver.load_stage(source, stage, {}, 'last')).params
    jax.tree.map(np.testing.assert_array_equal, first, trained)
    jax.tree.map(np.testing.assert_array_equal, second, trained)


def test_runs_that_differ_in_the_amount_of_noise_share_their_program():
    loud, quiet = (
        program(make_config(noise=dict(name='gaussian', snr=snr))) for snr in (-10.0, 7.38)
    )
    assert loud == quiet


@pytest.mark.parametrize(
    'sections, complaint',
    [
        (dict(noise=dict(bits=0)), 'bits'),
        (dict(noise=dict(snr=math.inf)), 'snr'),
        (dict(noise=dict(snr=math.nan)), 'snr'),
        (dict(noise=dict(name='gausian')), "did you mean 'gaussian'"),
        (dict(cycle=dict(alpha=1.5)), 'alpha'),
        (dict(cycle=dict(beta=-0.1)), 'beta'),
        (dict(cycle=dict(latent_gain=0.0)), 'latent_gain'),
        (dict(start=dict(num_steps=-1)), 'start.num_steps'),
        (dict(augment=dict(crop=(36, 64))), 'augment.crop'),
        (dict(data=dict(eval_size=(32, 60))), 'data.eval_size'),
        (dict(augment=dict(crop=(8, 16))), 'augment.crop'),
        (dict(probes=('quantise:2',)), "did you mean 'quantize'"),
        (dict(probes=('gaussian:loud',)), 'gaussian'),
        (dict(probes=(2,)), 'strings'),
        (dict(compare=('quantize:2',)), 'config.compare'),
        (dict(unpaired=dict(batch_size=4, maps='rest')), 'config.unpaired.maps'),
    ],
)
def test_wrong_settings_are_refused_with_reasons(sections, complaint):
    config = make_config(**sections)
    with pytest.raises(InputError, match=complaint):
        config_lib.validate(config)
        noise_cyclegan.make_stages(config, SPEC)


def test_it_is_registered():
    assert pipelines.load('noise_cyclegan') is noise_cyclegan
