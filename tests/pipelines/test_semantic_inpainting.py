"""Semantic inpainting: conditions, losses, remedies against noise, devices, and wrong configs."""

import pathlib
import shlex
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import NUM_CLASSES as K
from fakes import SPEC
from run_folders import REPOSITORY, assert_same_run, kill_on_the_way, run_to_the_end, stop_at

from segjax import config as config_lib
from segjax.config import config_file
from segjax.core import parallel, rng
from segjax.errors import InputError
from segjax.models.backbones import efficientnet
from segjax.modes import table as tables
from segjax.modes.table import plan as table_plan
from segjax.pipelines import semantic_inpainting as pipeline
from segjax.protocol import TrainState
from segjax.tasks import inpainting, object_boxes
from segjax.train import driver
from segjax.train.stop import Preempted

SIDE = 32
BACKGROUND = K
"""Class id of a box without an object."""


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Reduces the classifier to the first block of its backbone."""
    monkeypatch.setattr(efficientnet, 'STAGES', efficientnet.STAGES[:1])


def make_config(**sections):
    config = config_lib.defaults('semantic_inpainting')
    config_lib.update(
        config,
        boxes=dict(size=SIDE, min_side=8.0, max_side=16.0),
        train=dict(batch_size=8, num_steps=3),
        evaluate=dict(batch_size=8),
        # Plain SGD: Adam would turn the rounding noise of a zero gradient into full steps.
        optim=dict(name='sgd', momentum=0.0, learning_rate=0.05, schedule='constant'),
        optim_discriminator=dict(name='sgd', momentum=0.0, learning_rate=0.05, schedule='constant'),
    )
    config.model.width = 0.0625
    config.model.blocks = 1
    config.discriminator.width = 0.0625
    config.discriminator.num_layers = 1
    config_lib.update(config, **sections)
    return config


def with_denoiser(config, name='adnet'):
    config_lib.choose(config, 'denoiser', name)
    config.denoiser.width = 0.125
    config.activation.train_filter = 'none'
    return config


def make_batch(rows=8, seed=0):
    """Returns squares of label maps with an object in a box. The last box has none."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, K, (rows, 4, 4)).repeat(8, 1).repeat(8, 2).astype(np.int32)
    label[:, 0] = 255
    mask_box = np.zeros((rows, SIDE, SIDE), np.uint8)
    mask_out = np.zeros_like(mask_box)
    mask_object = np.zeros_like(mask_box)
    class_id = generator.integers(0, K, rows).astype(np.int32)
    class_id[-1] = BACKGROUND
    for i in range(rows):
        top, left = generator.integers(5, 9, 2)
        mask_box[i, top : top + 14, left : left + 12] = 1
        mask_out[i, top - 2 : top + 16, left - 2 : left + 14] = 1
        if class_id[i] < K:
            mask_object[i, top + 2 : top + 14, left : left + 9] = 1
            label[i][mask_object[i] > 0] = class_id[i]
    return {
        'label': label,
        'mask_box': mask_box,
        'mask_out': mask_out,
        'mask_object': mask_object,
        'class_id': class_id,
        'weight': np.ones(rows, np.float32),
        'index': np.arange(rows, dtype=np.int32),
    }


def on_device(batch):
    return {key: jnp.asarray(value) for key, value in batch.items()}


FREE = ('testing', 'activation', 'loss', 'init_from')
"""Sections that change no parameter."""
STATES = {}
"""First states of this file, by the config without `FREE`."""


def fresh_state(config):
    """Returns the stage of a config and its first state, which configs of equal nets share."""
    (stage,) = pipeline.make_stages(config, SPEC)
    key = repr({name: value for name, value in config.to_dict().items() if name not in FREE})
    if key not in STATES:
        STATES[key] = stage.init(rng.root(0, 'test'), make_batch(), {})
    return stage, STATES[key]


# --- the input of the generator -------------------------------------------------------------------


def test_the_generator_sees_the_box_its_class_and_the_map_around_it():
    system = pipeline.make_system(make_config(), SPEC)
    batch = make_batch()
    boxes = pipeline.boxes_of(system, on_device(batch))
    condition = np.asarray(pipeline.condition_of(boxes, K))
    assert condition.shape == (8, SIDE, SIDE, 2 * (K + 1))
    for row in range(8):
        mask = batch['mask_box'][row] > 0
        target = batch['class_id'][row]
        box, context = np.split(condition[row], 2, -1)
        expected_box = np.zeros((SIDE, SIDE, K + 1))
        expected_box[mask, target] = 1
        np.testing.assert_array_equal(box, expected_box)
        # S^u holds the target class inside the box. Ignored pixels have no channel.
        incomplete = np.where(mask, target, batch['label'][row])
        expected = (incomplete[..., None] == np.arange(K + 1)).astype(float)
        np.testing.assert_array_equal(context, expected)


def hidden_twin(batch):
    """Returns the batch with other labels inside the boxes."""
    label = np.where(batch['mask_box'] > 0, (batch['label'] + 1) % K, batch['label'])
    return {**batch, 'label': label}


@pytest.mark.parametrize('testing', ['none', 'prob'])
@pytest.mark.parametrize('train_filter', ['none', 'zero_logit'])
def test_the_hidden_part_of_the_map_changes_nothing(testing, train_filter):
    config = make_config(testing=dict(filter=testing), activation=dict(train_filter=train_filter))
    system = pipeline.make_system(config, SPEC)
    _, state = fresh_state(config)
    batch = make_batch()
    maps = {}
    for name, examples in (('plain', batch), ('twin', hidden_twin(batch))):
        boxes = pipeline.boxes_of(system, on_device(examples))
        maps[name], objects = pipeline.completed(system, state, boxes)
        outside = batch['mask_box'] == 0
        np.testing.assert_array_equal(np.asarray(maps[name])[outside], batch['label'][outside])
        assert not np.asarray(objects)[outside].any()
    np.testing.assert_array_equal(maps['plain'], maps['twin'])


@pytest.mark.parametrize('test_filter', ['prob', 'neg_inf'])
@pytest.mark.parametrize('train_filter', ['none', 'zero_logit', 'neg_inf', 'post_softmax'])
def test_filtered_boxes_hold_the_target_and_the_classes_of_their_ring(test_filter, train_filter):
    config = make_config(
        testing=dict(filter=test_filter), activation=dict(train_filter=train_filter)
    )
    system = pipeline.make_system(config, SPEC)
    _, state = fresh_state(config)
    batch = make_batch()
    boxes = pipeline.boxes_of(system, on_device(batch))
    completed, _ = pipeline.completed(system, state, boxes)
    for row in range(8):
        mask = batch['mask_box'][row] > 0
        rows = np.flatnonzero(mask.any(1))
        columns = np.flatnonzero(mask.any(0))
        around = batch['label'][row, rows[0] - 1 : rows[-1] + 2, columns[0] - 1 : columns[-1] + 2]
        ring = {*around[0], *around[-1], *around[:, 0], *around[:, -1]} - {255}
        inside = set(np.asarray(completed)[row][mask].tolist())
        assert inside <= ring | {int(batch['class_id'][row])}


def test_void_is_a_class_if_the_config_says_so():
    config = make_config(data=dict(void_class=True))
    system = pipeline.make_system(config, SPEC)
    boxes = pipeline.boxes_of(system, on_device(make_batch()))
    assert system.num_classes == K + 1
    assert (np.asarray(boxes.truth)[:, 0] == K).all()
    assert object_boxes.object_crop(config, SPEC, training=True).background_class == K + 1


# --- losses ---------------------------------------------------------------------------------------


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference_losses(outputs, batch, train_filter):
    """Computes the terms of Eqs. 1 and 7 that need no discriminator, pixel by pixel."""
    logits = np.asarray(outputs['context'], np.float64)
    object_logits = np.asarray(outputs['object'], np.float64)[..., 0]
    context = []
    objects = []
    for row in range(len(logits)):
        mask = batch['mask_box'][row] > 0
        ring = np.zeros_like(mask)
        for i, j in np.argwhere(mask):
            ring[i - 1 : i + 2, j - 1 : j + 2] = True
        ring &= ~mask
        allowed = np.zeros(K)
        for c in range(K):
            allowed[c] = (batch['label'][row][ring] == c).any() or c == batch['class_id'][row]
        for i in range(SIDE):
            for j in range(SIDE):
                if not batch['mask_out'][row, i, j]:
                    objects.append(0.0)
                    continue
                p = 1 / (1 + np.exp(-object_logits[row, i, j]))
                is_object = batch['mask_object'][row, i, j] > 0
                objects.append(-np.log(p) if is_object else -np.log(1 - p))
                y = batch['label'][row, i, j]
                if y == 255:
                    continue
                x = logits[row, i, j]
                scores = softmax(x)
                if train_filter == 'zero_logit':
                    scores = scores + softmax(np.where(x > 0, x, 0.2 * x) * allowed)
                context.append(-np.log(scores[y]))
    return np.mean(objects), np.mean(context)


@pytest.mark.parametrize('train_filter', ['none', 'zero_logit'])
def test_the_losses_are_those_of_the_paper(train_filter):
    config = make_config(activation=dict(train_filter=train_filter))
    system = pipeline.make_system(config, SPEC)
    _, state = fresh_state(config)
    batch = make_batch(rows=3)
    device_batch = on_device(batch)
    condition = pipeline.condition_of(pipeline.boxes_of(system, device_batch), K)
    params = state.params['generator']
    statistics = state.model_state['generator']

    def run(batch):
        outputs, _ = pipeline.generate(system, params, statistics, condition, train=True)
        loss_fn = pipeline.generator_loss(system, state)
        terms, _, extra = loss_fn(state.params, state.model_state, batch, {})
        return outputs, terms, extra['object_map']

    # Batch statistics need the axis of devices.
    outputs, terms, object_map = jax.tree.map(
        lambda x: x[0], jax.pmap(run, parallel.AXIS)({k: v[None] for k, v in device_batch.items()})
    )
    objects, context = reference_losses(outputs, batch, train_filter)
    np.testing.assert_allclose(terms['object'].value(), objects, rtol=2e-5)
    np.testing.assert_allclose(terms['context'].value(), context, rtol=2e-5)
    assert not np.asarray(object_map)[batch['mask_out'] == 0].any()


def test_the_weights_are_the_lambdas_of_the_config():
    config = make_config(loss=dict(adversarial=0.1, object=2.0, context=3.0))
    assert pipeline.loss_weights(config) == {'adversarial': 0.1, 'object': 2.0, 'context': 3.0}


@pytest.mark.parametrize(('region', 'pixels'), [('enlarged_box', 'mask_out'), ('box', 'mask_box')])
def test_the_region_of_the_loss(region, pixels):
    batch = on_device(make_batch())
    gate = pipeline.gate_of(make_config(loss=dict(region=region)), batch)
    np.testing.assert_array_equal(gate, batch[pixels] > 0)
    assert pipeline.gate_of(make_config(loss=dict(region='map')), batch).all()


# --- training -------------------------------------------------------------------------------------


def run_steps(config, num_steps=1, devices=1, mode='pmap'):
    """Returns (state before, state after, metrics) of steps on one batch."""
    (stage,) = pipeline.make_stages(config, SPEC)
    topology = parallel.topology(mode, devices)
    root = rng.root(0, 'test')

    def step(state, batch):
        keys = rng.streams(root, stage.streams, state.step, parallel.device_index())
        state, metrics = stage.train_step(state, batch, keys)
        return state, parallel.sum_over_devices(metrics), parallel.replica_mismatch(state)

    run = topology.spmd(step, num_args=2)
    before = parallel.to_host(stage.init(root, make_batch(), {}))
    state = topology.put_replicated(before)
    batch = topology.put_batch(make_batch())
    for _ in range(num_steps):
        state, metrics, mismatch = run(state, batch)
        assert int(mismatch) == 0
    return before, parallel.to_host(state), parallel.to_host(metrics)


def moved(before, after, net):
    """Returns whether any parameter of a net changed."""
    pairs = zip(jax.tree.leaves(before.params[net]), jax.tree.leaves(after.params[net]))
    return any((a != b).any() for a, b in pairs)


@pytest.mark.slow
def test_a_step_trains_both_players():
    before, after, metrics = run_steps(make_config())
    assert moved(before, after, 'generator') and moved(before, after, 'discriminator')
    names = {'adversarial', 'object', 'context', 'real', 'generated', 'discriminator'}
    assert {f'loss_{name}' for name in names} <= set(metrics)
    assert all(np.isfinite(mean.value()) for mean in metrics.values())
    counts = after.extra[inpainting.SHAPES_SEEN]['count']
    np.testing.assert_array_equal(counts, np.bincount(make_batch()['class_id'])[:K])


@pytest.mark.slow
@pytest.mark.parametrize('norm', ['batch', pytest.param('instance', marks=pytest.mark.slow)])
def test_a_step_in_bfloat16_keeps_the_types_of_the_state(norm):
    config = make_config(train=dict(dtype='bfloat16'))
    config.model.norm = norm
    config.discriminator.norm = norm
    before, after, metrics = run_steps(config)
    types = [jax.tree.map(lambda x: x.dtype, state) for state in (before, after)]
    assert types[0] == types[1]
    assert all(np.isfinite(mean.value()) for mean in metrics.values())


@pytest.mark.slow
def test_a_denoiser_is_trained_with_the_generator():
    before, after, _ = run_steps(with_denoiser(make_config()))
    assert all(moved(before, after, net) for net in before.params)
    assert set(before.params) == {'generator', 'discriminator', 'denoiser'}


def fixed_generator():
    config = with_denoiser(make_config(train_generator=False))
    config.init_from.sources = (('generator', 'runs/inpainting'),)
    return config


@pytest.mark.slow
def test_a_denoiser_is_trained_on_a_fixed_generator():
    before, after, metrics = run_steps(fixed_generator())
    assert moved(before, after, 'denoiser')
    assert not moved(before, after, 'generator') and not moved(before, after, 'discriminator')
    before_statistics = jax.tree.leaves(before.model_state['generator'])
    after_statistics = jax.tree.leaves(after.model_state['generator'])
    for a, b in zip(before_statistics, after_statistics, strict=True):
        np.testing.assert_array_equal(a, b)
    assert 'loss_adversarial' not in metrics


@pytest.mark.parametrize('name', ['unetd', 'ridnet', 'ffdnet'])
def test_all_denoisers_fit(name):
    config = with_denoiser(make_config(), name)
    (stage,) = pipeline.make_stages(config, SPEC)
    state = jax.eval_shape(lambda: stage.init(rng.root(0, 'test'), make_batch(), {}))
    shape = jax.eval_shape(
        lambda s: pipeline.completed(
            pipeline.make_system(config, SPEC),
            s,
            pipeline.boxes_of(pipeline.make_system(config, SPEC), on_device(make_batch())),
        )[0],
        state,
    )
    assert shape.shape == (8, SIDE, SIDE)


@pytest.fixture(scope='module')
def on_one_device():
    with jax.enable_x64(True):
        return run_steps(make_config())[:2]


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['pmap', pytest.param('shard_map', marks=pytest.mark.slow)])
def test_the_gradient_is_the_same_on_eight_devices(on_one_device, mode):
    start, expected = on_one_device
    with jax.enable_x64(True):
        _, after, _ = run_steps(make_config(), devices=8, mode=mode)
    move = jax.tree.map(np.subtract, after.params, start.params)
    expected_move = jax.tree.map(np.subtract, expected.params, start.params)
    leaves = jax.tree_util.tree_leaves_with_path(move)
    for (path, a), b in zip(leaves, jax.tree.leaves(expected_move), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b) + 1e-6, path


# --- the classifier and the painter ---------------------------------------------------------------


def with_frozen_nets(use):
    config = make_config(
        classifier=dict(use=use, num_steps=2),
        picture=dict(use=use, num_steps=2),
        shapes=dict(size=SIDE, whole_map=False, classes=('class 1', 'class 2'), max_objects=4),
    )
    config.shapes.model.update(backbone='lite0', width=0.125, forms='naive')
    config_lib.choose(config, 'painter.model', 'mask_to_image')
    config.painter.model.update(width=0.0625, halvings=2, blocks=1)
    config.painter.discriminator.update(width=0.0625, num_layers=1)
    config.painter.update(instance_edges=False)
    config.painter.weights.vgg = 0.0
    return config


def photo_batch():
    image = np.random.default_rng(5).integers(0, 255, (8, SIDE, SIDE, 3)).astype(np.uint8)
    size = np.full((8, 2), SIDE, np.int32)
    return {**make_batch(), 'image': image, 'size': size, 'label_size': size}


def test_classifier_and_painter_are_trained_first_and_handed_on():
    config = with_frozen_nets('train')
    stages = pipeline.make_stages(config, SPEC)
    assert [stage.name for stage in stages] == ['shapes', 'painter', 'inpainting']
    assert [stage.num_steps for stage in stages] == [2, 2, 3]
    names = [feature.name for feature in pipeline.make_features(config, SPEC)]
    assert names == ['targets', 'shape_targets']

    root = rng.root(0, 'test')
    planes = {'planes': np.zeros((8, SIDE, SIDE, 2), np.uint8), 'class_id': np.zeros(8, np.int32)}
    earlier = {
        'shapes': stages[0].init(root, planes, {}),
        'painter': stages[1].init(root, photo_batch(), {}),
    }
    earlier['shapes'] = earlier['shapes'].replace(
        params=jax.tree.map(lambda x: x + 1, earlier['shapes'].params)
    )
    state = stages[2].init(root, make_batch(), earlier)
    for net, stage in (('classifier', 'shapes'), ('painter', 'painter')):
        jax.tree.map(np.testing.assert_array_equal, state.params[net], earlier[stage].params[net])
    # They are frozen, and their own judges stay behind.
    assert set(state.opt_state) == {'generators', 'discriminator'}
    assert set(state.params) == {'generator', 'discriminator', 'classifier', 'painter'}


def test_sem_and_painted_boxes_are_part_of_the_evaluation():
    config = with_frozen_nets('load')
    config.init_from.sources = (('classifier', 'runs/shapes'), ('painter', 'runs/painter'))
    stage, state = fresh_state(config)
    batch = photo_batch()
    batch['class_id'][-1] = 0
    metrics = jax.jit(stage.eval_step)(state, on_device(batch), {})
    distance = np.asarray(metrics['net/Sem'].sum)
    assert (distance >= 0).all() and (distance <= 1).all() and (distance > 0).any()

    pictures = jax.jit(stage.render)(state, on_device(batch), {})
    photo = np.asarray(pictures['photo'].pixels)
    painted = np.asarray(pictures['painted'].pixels)
    inside = batch['mask_box'] > 0
    np.testing.assert_array_equal(photo[~inside], painted[~inside])
    assert (photo[inside] != painted[inside]).any()


def test_an_edit_paints_its_box_alone():
    config = with_frozen_nets('load')
    config.init_from.sources = (('.*', 'runs/all'),)
    prediction, state, batch = edits(config)
    image = np.random.default_rng(6).integers(0, 255, (*batch['label'].shape, 3)).astype(np.uint8)
    outputs = jax.jit(prediction.apply)(state, on_device({**batch, 'image': image}), {})
    picture = np.asarray(outputs['picture'])
    assert prediction.outputs['picture'] == 'image' and picture.dtype == np.uint8
    for row in range(3):
        x0, y0, x1, y1 = np.ceil(batch['box'][row, 0]).astype(int)
        inside = np.zeros(prediction.size, bool)
        inside[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(picture[row][~inside], image[row][~inside])
        assert (picture[row][inside] != image[row][inside]).any()


@pytest.mark.parametrize(('section', 'net'), [('classifier', 'classifier'), ('picture', 'painter')])
def test_a_net_without_a_source_is_refused(section, net):
    config = make_config(**{section: dict(use='load')})
    with pytest.raises(InputError) as error:
        pipeline.make_stages(config, SPEC)
    assert f"no row for the net '{net}'" in str(error.value)
    (typed,) = shlex.split(error.value.fix.partition(', with')[0].removeprefix('--config.'))
    fixed = config_file.overridden(config, typed)
    assert pipeline.make_stages(fixed, SPEC)


def test_a_fixed_generator_without_a_source_is_refused():
    config = fixed_generator()
    config.init_from.sources = ()
    with pytest.raises(InputError) as error:
        pipeline.make_stages(config, SPEC)
    assert "no row for the net 'generator'" in str(error.value)
    (typed,) = shlex.split(error.value.fix.partition(', with')[0].removeprefix('--config.'))
    assert pipeline.make_stages(config_file.overridden(config, typed), SPEC)
    config.init_from.path = 'runs/inpainting'
    assert pipeline.make_stages(config, SPEC)


def test_loaded_nets_are_frozen():
    assert pipeline.make_stages(make_config(), SPEC)[-1].frozen == ()
    assert pipeline.make_stages(fixed_generator(), SPEC)[-1].frozen == ('generator',)
    assert pipeline.make_stages(with_frozen_nets('train'), SPEC)[-1].frozen == ()
    config = with_frozen_nets('load')
    config.init_from.path = 'runs/all'
    assert pipeline.make_stages(config, SPEC)[-1].frozen == ('classifier', 'painter')


def test_the_averages_of_the_painter_are_handed_on():
    config = with_frozen_nets('train')
    config.train.ema = 0.9
    stages = pipeline.make_stages(config, SPEC)
    root = rng.root(0, 'test')
    planes = {'planes': np.zeros((8, SIDE, SIDE, 2), np.uint8), 'class_id': np.zeros(8, np.int32)}
    painter = stages[1].init(root, photo_batch(), {})
    averages = painter.extra['ema']
    of_params = {'painter': jax.tree.map(lambda x: x + 1, averages['params']['painter'])}
    painter = painter.replace(
        step=jnp.int32(2), extra={**painter.extra, 'ema': {**averages, 'params': of_params}}
    )
    earlier = {'shapes': stages[0].init(root, planes, {}), 'painter': painter}
    state = stages[2].init(root, make_batch(), earlier)
    jax.tree.map(np.testing.assert_array_equal, state.params['painter'], of_params['painter'])


# --- configs --------------------------------------------------------------------------------------

FILE = 'configs/semantic_inpainting.py'


@pytest.mark.parametrize(
    ('argument', 'mode'),
    [('', 'train'), ('da=none', 'none'), ('da=test', 'test'), ('da=both', 'both'),
     ('denoiser=ridnet', 'none'), ('denoiser=ridnet,da=test', 'test')],
)  # fmt: skip
def test_the_config_names_the_use_of_the_activation(argument, mode):
    config = config_file.load(f'{FILE}:smoke,{argument}')
    assert pipeline.activation_of(config).mode == mode


@pytest.mark.parametrize('variant', ['', 'bedroom', 'video', 'quick', 'smoke', 'release=true'])
def test_every_variant_is_valid(variant):
    config = config_file.load(f'{FILE}:{variant}')
    config_lib.validate(config)


@pytest.mark.parametrize('variant', ['', 'bedroom', 'video', 'quick'])
def test_the_classifier_learns_the_boxes_that_sem_compares(variant):
    config = config_file.load(f'{FILE}:{variant},sem=train'.replace(':,', ':'))
    for key in ('classes', 'margin', 'enlarge', 'min_side', 'min_share', 'size'):
        assert config.shapes[key] == config.boxes[key], key


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda config: config.boxes.update(size=40), ['boxes.size', '40', '=32']),
        (
            lambda config: config.update(train_generator=False),
            ['denoiser.name=adnet --config.activation.train_filter=none'],
        ),
        (lambda config: config.boxes.update(classes=('clas 3',)), ['boxes.classes', 'class 3']),
        (lambda config: config.boxes.update(max_side=4.0), ['boxes.max_side', '4', '=8.0']),
        (lambda config: config.boxes.update(outside=(0.5, 1.2)), ['outside="(1.0, 1.2)"']),
    ],
)
def test_wrong_configs_are_refused(change, words):
    config = make_config()
    change(config)
    with pytest.raises(InputError) as error:
        pipeline.make_stages(config, SPEC)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize('size', [16, 33])
def test_a_square_that_the_generator_cannot_halve_is_refused(size):
    config = make_config(boxes=dict(size=size))
    with pytest.raises(InputError) as error:
        pipeline.make_stages(config, SPEC)
    fixed = config_file.overridden(config, error.value.fix.removeprefix('--config.'))
    assert fixed.boxes.size == 32 and pipeline.make_stages(fixed, SPEC)


def test_two_remedies_in_training_are_refused():
    config = with_denoiser(make_config())
    config.activation.train_filter = 'zero_logit'
    with pytest.raises(InputError, match='train_filter=none'):
        pipeline.make_stages(config, SPEC)


# --- a run ----------------------------------------------------------------------------------------


def smoke_run(*arguments):
    """Returns the smoke config of the generator alone, without pictures."""
    config = config_file.load(','.join([f'{REPOSITORY}/{FILE}:smoke', 'sem=none', *arguments]))
    logging = dict(num_pictures=0, checkpoint_every=0, eval_every=0)
    config_lib.update(config, train=dict(num_steps=2), logging=logging)
    config.model.update(width=0.0625, blocks=1)
    config.discriminator.update(width=0.0625, num_layers=1)
    return config


def test_a_run_is_scored_by_box_and_evaluated_with_the_noise_filter(
    one_device, in_threads, tmp_path
):
    whole = driver.train(smoke_run('da=none'), str(tmp_path))
    scores = whole['inpainting']
    assert scores.keys() >= {'tIOU', 'hamm', 'NN', 'intervals', 'baseline_mean_shape', 'gains'}
    assert scores['boxes'] == sum(row['boxes'] for row in scores['per_class'].values())

    # The same net is tested with the noise filter. It has no noise that the filter can see.
    tested = smoke_run('da=test')
    tested.testing.noise_reference = 'filter'
    filtered = driver.evaluate(tested, str(tmp_path))['inpainting']
    assert filtered['NN'] == 0 and filtered['boxes'] == scores['boxes']
    other = smoke_run('da=train')
    with pytest.raises(InputError, match='train_filter'):
        driver.evaluate(other, str(tmp_path))


@pytest.mark.slow
def test_a_run_that_was_stopped_equals_a_whole_run(one_device, in_threads, tmp_path, monkeypatch):
    config = smoke_run('da=none')
    whole = driver.train(config, str(tmp_path / 'whole'))
    with monkeypatch.context() as patch, pytest.raises(Preempted, match='saved at step 1'):
        stop_at(patch, 'inpainting', 1)
        driver.train(config, str(tmp_path / 'parts'))
    assert driver.train(config, str(tmp_path / 'parts')) == whole
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts', stages=('inpainting',))


@pytest.mark.slow
def test_a_run_that_was_killed_equals_a_whole_run(tmp_path):
    def command(folder):
        arguments = ['--config', f'{REPOSITORY}/{FILE}:smoke,picture=train']
        every = ['--config.logging.log_every=1', '--config.logging.checkpoint_every=1']
        workdir = ['--workdir', str(folder)]
        return [sys.executable, '-m', 'segjax.main', *arguments, *workdir, *every]

    run_to_the_end(command(tmp_path / 'whole'))
    kill_on_the_way(command(tmp_path / 'parts'), tmp_path / 'parts/inpainting', 2, False)
    run_to_the_end(command(tmp_path / 'parts'))
    stages = ('shapes', 'painter', 'inpainting')
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts', stages=stages)


def test_the_painter_and_the_generator_see_the_labelled_share_of_the_images():
    config = with_frozen_nets('train')
    config.data.labelled_fraction = 0.5
    for stage in pipeline.make_stages(config, SPEC):
        assert stage.train_input.part == (0.0, 0.5) and stage.train_input.examples == 'labelled'
        assert stage.eval_input.part == (0.0, 1.0)


# --- tables ---------------------------------------------------------------------------------------

TABLES = pathlib.Path(__file__).parents[2] / 'configs/tables'


def make_plan(number, scale, folder, overrides=()):
    path = TABLES / f'semantic_inpainting_table{number}.py'
    return table_plan.make_table_plan(str(path), scale, str(folder), overrides=overrides)


@pytest.mark.parametrize(
    ('number', 'scale'), [(1, 'quick'), (1, 'video'), (1, 'paper'), (2, 'paper')]
)
def test_the_rows_of_a_table_score_with_the_net_of_the_hidden_row(number, scale, tmp_path):
    runs = make_plan(number, scale, tmp_path).runs
    (classifier, *rows) = (run.config for run in runs if run.seed == runs[0].seed)
    assert classifier.pipeline == 'shape_classifier' and len(rows) == 8
    for config in rows:
        assert config.shapes == classifier.shapes
        assert config.classifier.use == 'load'
        assert config.init_from.path.endswith('classifier/seed_0')


@pytest.mark.parametrize('number', [1, 2])
def test_a_table_has_its_own_numbers_and_its_own_best_denoiser(number):
    table = tables.load(TABLES / f'semantic_inpainting_table{number}.py')
    tiou = {row.key: row.published['tIOU'] for row in table.rows if row.published}
    assert len(tiou) == {1: 6, 2: 8}[number] and tiou['twosm'] == {1: 82.85, 2: 65.05}[number]
    (best,) = (claim for claim in table.claims if claim.text.startswith('the best denoiser'))
    denoisers = ('unetd', 'adnet', 'ridnet', 'ffdnet')
    assert best.lower == max(denoisers, key=tiou.__getitem__)


def test_rows_are_checked_before_the_hidden_row_is_trained(
    one_device, in_threads, tmp_path, monkeypatch
):
    def without_trace(config, folder, use, trace, *rest, checked_run=driver.checked_run):
        return checked_run(config, folder, use, False, *rest)

    monkeypatch.setattr(driver, 'checked_run', without_trace)
    of_data = [f'.:data.world.{key}=8' for key in ('num_train', 'num_val')]
    plan = make_plan(1, 'quick', tmp_path, [*of_data, '^[^c]:model.width=0.0625'])
    chosen = ('classifier', 'twosm', 'da_test')
    runs = [run for run in plan.runs if run.row.key in chosen and run.seed == 0]
    table_plan.check_runs(runs)
    runs[1].config.boxes.size = 40
    with pytest.raises(InputError, match=r"row 'twosm': config\.boxes\.size"):
        table_plan.check_runs(runs)


@pytest.mark.parametrize('number', [1, 2])
def test_the_overrides_of_a_table_load_the_classifier_of_coco(number, tmp_path):
    source = (TABLES / f'semantic_inpainting_table{number}.py').read_text().replace('\\\\', '')
    lines = [line for line in source.splitlines() if line.startswith('--override')]
    overrides = [shlex.split(line)[1] for line in lines]
    runs = make_plan(number, 'paper', tmp_path, overrides).runs
    classifier = config_file.load('configs/shape_classifier.py')
    assert runs[0].config.shapes.num_outputs == 0
    for run in runs[1:]:
        assert run.config.init_from.sources == (('classifier', 'runs/shapes'),)
        assert run.config.shapes.num_outputs == 80
        assert run.config.shapes.model == classifier.shapes.model


@pytest.mark.parametrize('variant', ['', 'bedroom,'])
def test_the_variants_of_the_paper_load_the_classifier_of_the_paper(variant):
    config = config_file.load(f'{FILE}:{variant}sem=load')
    classifier = config_file.load('configs/shape_classifier.py')
    assert config.shapes.model == classifier.shapes.model
    assert config.shapes.num_outputs == 80
    trained = config_file.load(f'{FILE}:{variant}sem=train')
    assert trained.shapes.num_outputs == 0
    assert set(trained.shapes.classes) == set(trained.boxes.classes)


@pytest.mark.parametrize(
    ('variant', 'painter'), [('', 'box'), ('bedroom', 'box'), ('quick', 'quick,net=mask_to_image')]
)
def test_a_run_of_the_painter_alone_can_be_loaded(variant, painter):
    config = config_file.load(f'{FILE}:{variant},picture=load')
    alone = config_file.load(f'configs/label_to_image.py:{painter}')
    assert config.painter == alone.painter


# --- edits ----------------------------------------------------------------------------------------


def edits(config, rows=3):
    """Returns (prediction, state, batch) of label maps on the canvas, with a box each."""
    stage, state = fresh_state(config)
    generator = np.random.default_rng(3)
    height, width = stage.prediction.size
    label = generator.integers(0, K, (rows, height, width)).astype(np.int32)
    label[:, :3] = 255
    boxes = np.array([[[3.5, 4.5, 15.5, 20.5]], [[20, 10, 30, 14]], [[0.5, 1.5, 9.5, 9.5]]])
    batch = {
        'label': label,
        'box': boxes.astype(np.float32),
        'class_id': np.array([1, 2, 4], np.int32),
        'size': np.array([[height, width], [30, 60], [24, 41]], np.int32),
        'weight': np.ones(rows, np.float32),
    }
    return stage.prediction, state, batch


@pytest.mark.parametrize('void_class', [False, True])
def test_an_edit_changes_the_box_alone(void_class):
    config = make_config(data=dict(void_class=void_class), testing=dict(filter='prob'))
    prediction, state, batch = edits(config)
    outputs = jax.jit(prediction.apply)(state, on_device(batch), {})
    inpainted = np.asarray(outputs['inpainted'])
    height, width = prediction.size
    for row in range(3):
        x0, y0, x1, y1 = np.ceil(batch['box'][row, 0]).astype(int)
        inside = np.zeros((height, width), bool)
        inside[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(inpainted[row][~inside], batch['label'][row][~inside])
        is_target = inpainted[row] == batch['class_id'][row]
        np.testing.assert_array_equal(outputs['object'][row], is_target & inside)
    assert ((inpainted < K) | (inpainted == 255)).all()


def test_an_edit_sees_no_pixel_of_its_box():
    prediction, state, batch = edits(make_config())
    apply = jax.jit(prediction.apply)
    plain = np.asarray(apply(state, on_device(batch), {})['inpainted'])
    for row in range(3):
        x0, y0, x1, y1 = np.ceil(batch['box'][row, 0]).astype(int)
        batch['label'][row, y0:y1, x0:x1] = 0
    twin = np.asarray(apply(state, on_device(batch), {})['inpainted'])
    np.testing.assert_array_equal(plain, twin)


@pytest.mark.parametrize(
    ('box', 'class_id', 'words'),
    [
        ((5, 5, 5, 9), 1, ['area']),
        ((50, 5, 90, 9), 1, ['outside of the map']),
        ((-0.5, -0.5, 69.5, 39.5), 1, ['context']),
        ((5, 5, 5.4, 35), 1, ['1.25 pixels']),
        ((5, 5, 25, 25), 0, ['class 0', 'class 1', 'class 2', 'fix:      "class_id": "class 1"']),
        ((5, 5, 25, 25), 77, ['77', 'class 1']),
    ],
)
def test_wrong_edits_are_refused(box, class_id, words):
    config = make_config(boxes=dict(classes=('class 1', 'class 2')))
    (stage,) = pipeline.make_stages(config, SPEC)
    example = {'box': np.array([box]), 'class_id': class_id, 'size': (40, 70)}
    with pytest.raises(InputError) as error:
        stage.prediction.check(example)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_edits_of_classes_without_training_objects_are_refused():
    (stage,) = pipeline.make_stages(make_config(), SPEC)
    seen = inpainting.no_shapes(K)
    state = TrainState(np.int32(0), {}, {}, {}, {inpainting.SHAPES_SEEN: seen})
    stage.prediction.check_trained(state, {'class_id': 2})  # a net that was not trained here
    seen['count'] = np.eye(K)[1]
    stage.prediction.check_trained(state, {'class_id': 1})
    with pytest.raises(InputError, match=r"'class 2'.*no object(.|\n)*training: class 1\n"):
        stage.prediction.check_trained(state, {'class_id': 2})


def test_a_right_edit_is_accepted():
    (stage,) = pipeline.make_stages(make_config(), SPEC)
    box = np.array([[5, 5, 25, 25]])
    stage.prediction.check({'box': box, 'class_id': 1, 'size': (40, 70)})
