"""Shape classification: examples, the study of robustness against loops, Sem, devices."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from fakes import SPEC as FAKE
from scipy import ndimage

from segjax import config as config_lib
from segjax.config import tree
from segjax.core import parallel, rng
from segjax.data import objects
from segjax.data.labels import CITYSCAPES
from segjax.data.worlds import streets
from segjax.errors import InputError
from segjax.metrics import sem, shape
from segjax.models.backbones import efficientnet
from segjax.models.backbones.efficientnet import Scaling
from segjax.protocol import Mean
from segjax.report import scores as report_scores
from segjax.spec import IGNORE
from segjax.tasks import classification, shapes

SPEC = dataclasses.replace(FAKE, classes=CITYSCAPES)
CLASSES = ('car', 'bus', 'person')
SIZE = 16
NUM_IMAGES = 4


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Reduces lite0 to its first block, with an eighth of the channels."""
    monkeypatch.setattr(efficientnet, 'STAGES', efficientnet.STAGES[:1])
    monkeypatch.setitem(efficientnet.VARIANTS, 'lite0', Scaling(1 / 8, 1.0, 0.2, lite=True))


def make_config(train=None, **section):
    """Returns a config with a section `shapes` for small planes."""
    config = config_lib.defaults('supervised')
    with config.unlocked():
        config.shapes = ml_collections.ConfigDict(
            tree.defaults_of(shapes.SHAPES), convert_dict=True
        )
    config.shapes.model.update(dropout=0.0, drop_connect=0.0, forms='naive')
    config.shapes.optim.update(
        name='sgd', momentum=0.0, learning_rate=0.05, schedule='constant', weight_decay=0.0
    )
    config.shapes.update(classes=CLASSES, size=SIZE, max_objects=3, min_share=0.003)
    config.shapes.update(section)
    config.train.update(train or {})
    return config


def make_stage(config, num_steps=10):
    return shapes.make_stage(
        config,
        SPEC,
        config.shapes,
        name='shapes',
        num_steps=num_steps,
        batch_size=8,
        where='shapes',
    )


def batch_of(rows=8, seed=0, size=SIZE):
    """Returns discs, bars and triangles in their tight boxes, each class a kind of outline."""
    generator = np.random.default_rng(seed)
    class_id = (np.arange(rows) % len(CLASSES)).astype(np.int32)
    planes = np.zeros((rows, size, size, 2), np.uint8)
    y, x = np.mgrid[:size, :size]
    for row, number in enumerate(class_id):
        top, left = generator.integers(1, 5, 2)
        down = y - top
        right = x - left
        inside = (
            (down - 4) ** 2 + (right - 4) ** 2 <= 16,
            (down >= 0) & (down < 3) & (right >= 0) & (right < 9),
            (down >= 0) & (down < 8) & (right >= 0) & (right <= down),
        )[number]
        ys, xs = np.nonzero(inside)
        planes[row, ys.min() : ys.max() + 1, xs.min() : xs.max() + 1, 1] = 1
        planes[row, ..., 0] = inside
    return {
        'planes': planes,
        'class_id': class_id,
        'weight': np.ones(rows, np.float32),
        'index': generator.permutation(NUM_IMAGES * 3)[:rows].astype(np.int32),
    }


STUDY = shapes.Study(shapes.NAMES, 'add', clip=False)
KEY = jax.random.key(5)
degraded_objects = jax.jit(shapes.degraded, static_argnums=0)


def by_class(planes):
    """Returns logits of a classifier that sums the object in three bands of rows."""
    bands = [planes[:, rows, :, 0].sum((1, 2)) for rows in (slice(6), slice(6, 10), slice(10, 16))]
    return jnp.stack(bands, -1) / 8


@jax.jit
def similarities(truth, box, index):
    changed = shapes.degraded(STUDY, truth, box, index, KEY)
    return shapes.similarities(by_class, changed, box)


# --- examples -------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def frame():
    """Returns maps with objects of several classes."""
    rendered = [streets.frame(0, 'train', clip, 3, (96, 192)) for clip in range(6)]
    crop = shapes.crop_of(make_config().shapes, SPEC)
    return max(
        rendered,
        key=lambda each: len(objects.admissible(each, crop.classes, 1, 0.003).instances),
    )


def example_of(frame, row, config):
    crop = shapes.crop_of(config.shapes, SPEC)
    (table,) = shapes.features(config.shapes, SPEC)
    maps = {'label': frame['label'], 'instance': frame['instance']}
    return {**maps, 'shape_targets': table.compute(maps), 'row': row}, crop


def shape_in(frame, row, config, seed=0):
    example, crop = example_of(frame, row, config)
    generator = np.random.default_rng(seed)
    return shapes.shape_of_target(example, generator, crop, 'shape_targets'), example


def test_each_object_of_a_map_is_an_example_with_its_own_class_and_tight_box(frame):
    config = make_config(size=64)
    for row in range(3):
        made, example = shape_in(frame, row, config)
        instance = example['shape_targets'][row]
        pixels = frame['instance'] == instance
        (train_id,) = np.unique(frame['label'][pixels])
        assert SPEC.classes.names[train_id] == CLASSES[made['class_id']]

        # The planes are the stretched map: the shares of the pixels remain.
        inside, box = np.moveaxis(made['planes'], -1, 0)
        ys, xs = np.nonzero(pixels)
        area = (np.ptp(ys) + 1) * (np.ptp(xs) + 1) / pixels.size
        assert inside.mean() == pytest.approx(pixels.mean(), rel=0.25)
        assert box.mean() == pytest.approx(area, rel=0.25)
        assert made['planes'].dtype == np.uint8 and not inside[box == 0].any()
        rows = np.nonzero(box)
        assert box[rows[0].min() : rows[0].max() + 1, rows[1].min() : rows[1].max() + 1].all()


def test_the_planes_of_an_undistorted_map_are_the_pixels_themselves(frame):
    """A square map of the size of the planes is copied."""
    square = {key: frame[key][:, 20:116] for key in ('label', 'instance')}
    config = make_config(size=96)
    made, example = shape_in(square, 0, config)
    pixels = square['instance'] == example['shape_targets'][0]
    ys, xs = np.nonzero(pixels)
    box = np.zeros_like(pixels)
    box[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = True
    np.testing.assert_array_equal(made['planes'][..., 0], pixels)
    np.testing.assert_array_equal(made['planes'][..., 1], box)


def test_a_flipped_example_is_the_example_of_the_flipped_map(frame):
    config = make_config(size=64, flip=1.0)
    made, _ = shape_in(frame, 0, config)
    mirrored = {key: frame[key][:, ::-1] for key in ('label', 'instance')}
    plain, _ = shape_in(mirrored, 0, make_config(size=64))
    # The nearest pixel of a centre between two pixels may be either.
    assert (made['planes'] != plain['planes']).mean() < 0.02
    assert made['class_id'] == plain['class_id']


def test_a_square_around_the_object_is_cut_without_whole_map(frame):
    config = make_config(size=64, whole_map=False, margin=2.0)
    made, _ = shape_in(frame, 2, config)
    ys, xs = np.nonzero(made['planes'][..., 1])
    assert 0.45 < max(np.ptp(ys), np.ptp(xs)) / 64 < 0.55


def test_an_enlarged_box_has_a_pixel_around_the_object(frame):
    square = {key: frame[key][:, 20:116] for key in ('label', 'instance')}
    tight, _ = shape_in(square, 0, make_config(size=96))
    made, _ = shape_in(square, 0, make_config(size=96, enlarge=0.01))
    np.testing.assert_array_equal(made['planes'][..., 0], tight['planes'][..., 0])
    grown = ndimage.binary_dilation(tight['planes'][..., 1], np.ones((3, 3)))
    np.testing.assert_array_equal(made['planes'][..., 1], grown)


@pytest.mark.parametrize('whole_map', [False, True])
@pytest.mark.parametrize('enlarge', [0.0, 0.1])
def test_masks_are_cut_as_the_objects_of_an_evaluation(frame, whole_map, enlarge):
    """A generator in the middle of its range does not shift the square."""

    class Middle:
        def random(self, count):
            return np.full(count, 0.5)

    config = make_config(size=64, whole_map=whole_map, enlarge=enlarge)
    example, crop = example_of(frame, 0, config)
    made = shapes.shape_of_target(example, Middle(), crop, 'shape_targets')
    mask = frame['instance'] == example['shape_targets'][0]
    ys, xs = np.nonzero(mask)
    box = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]) - 0.5
    shape_, mask_box = shapes.cut_masks(config.shapes, jnp.asarray(mask[None]), jnp.asarray(box))
    np.testing.assert_array_equal(shape_[0], made['planes'][..., 0])
    np.testing.assert_array_equal(mask_box[0], made['planes'][..., 1])


def test_evaluation_never_flips_and_knows_no_class_of_a_foreign_net():
    config = make_config(flip=0.5)
    stage = make_stage(config)
    assert stage.train_input.transform.keywords['crop'].flip == 0.5
    assert stage.eval_input.transform.keywords['crop'].flip == 0.0
    for inputs in (stage.train_input, stage.eval_input):
        assert inputs.each == 'shape_targets' and not inputs.resize and inputs.augment is None
        assert set(inputs.stored) == {'label', 'instance', 'shape_targets'}
    foreign = make_stage(make_config(num_outputs=80), num_steps=0)
    assert foreign.eval_input.transform.keywords['is_known'] is False


def test_a_foreign_net_is_evaluated_without_accuracy_and_cannot_be_trained(frame):
    config = make_config(num_outputs=80)
    with pytest.raises(InputError, match='3 classes of the objects') as error:
        make_stage(config)
    assert error.value.fix == '--config.shapes.num_outputs=0'
    example, crop = example_of(frame, 0, config)
    made = shapes.shape_of_target(
        example, np.random.default_rng(0), crop, 'shape_targets', is_known=False
    )
    assert made['class_id'] == IGNORE
    assert len(shapes.make_task(config, SPEC, config.shapes).names) == 80
    config.shapes.num_outputs = 3
    make_stage(config)


def test_a_weight_belongs_to_each_class():
    with pytest.raises(InputError, match='3 weights, for car, bus, person') as error:
        make_stage(make_config(class_weights=(1.0, 2.0)))
    assert error.value.where == 'config.shapes.class_weights'
    assert error.value.fix.startswith("--config.shapes.class_weights='()'")


def test_a_class_that_the_data_set_lacks_is_named():
    with pytest.raises(InputError, match="'cat'") as error:
        shapes.features(make_config(classes=('bus', 'cat')).shapes, SPEC)
    assert error.value.where == 'config.shapes.classes' and 'car' in error.value.fix


# --- the study of robustness ----------------------------------------------------------------------


def test_similarities_are_those_of_a_loop_over_pixels():
    batch = batch_of(5)
    truth = batch['planes'][..., 0] > 0
    box = batch['planes'][..., 1] > 0
    changed = degraded_objects(STUDY, truth, box, batch['index'], KEY)
    values = similarities(truth, box, batch['index'])
    assert values.shape == (5, 6, 4, 3) and not np.isnan(values).any()

    def softmax(x):
        e = np.exp(x - x.max())
        return e / e.sum()

    for row, (place, name), level in places(5):
        degraded = np.asarray(changed[name][row, level])
        both = either = equal = pixels = 0
        for y, x in np.argwhere(box[row]):
            was = bool(truth[row, y, x])
            is_object = degraded[y, x] == 1
            both += was and is_object
            either += was or is_object
            equal += degraded[y, x] == was
            pixels += 1
        logits = []
        for plane in (degraded, truth[row].astype(np.float32)):
            bands = (plane[:6], plane[6:10], plane[10:])
            logits.append(np.array([band.sum() for band in bands]) / 8)
        distance = 0.5 * np.abs(softmax(logits[0]) - softmax(logits[1])).sum()
        expected = (1 - distance, both / either, equal / pixels)
        np.testing.assert_allclose(values[row, place, level], expected, atol=1e-5)


def places(rows):
    """Yields (row, (place, name), level) of all degraded objects."""
    for row in range(rows):
        for place, name in enumerate(shapes.NAMES):
            for level in range(4):
                yield row, (place, name), level


def test_level_0_is_the_object_itself_and_noise_stays_inside_the_box():
    batch = batch_of()
    truth = batch['planes'][..., 0] > 0
    box = batch['planes'][..., 1] > 0
    changed = degraded_objects(STUDY, truth, box, batch['index'], KEY)
    values = similarities(truth, box, batch['index'])
    np.testing.assert_array_equal(values[:, :, 0], 1)
    for levels in changed.values():
        np.testing.assert_array_equal(levels[:, 0], truth)
        assert not np.asarray(levels)[np.broadcast_to(~box[:, None], levels.shape)].any()


def test_random_numbers_of_an_object_depend_on_its_index_alone():
    batch = batch_of()
    truth = batch['planes'][..., 0] > 0
    box = batch['planes'][..., 1] > 0
    whole = degraded_objects(STUDY, truth, box, batch['index'], KEY)
    order = [5, 2, 0]
    some = degraded_objects(STUDY, truth[order], box[order], batch['index'][order], KEY)
    for name, levels in some.items():
        np.testing.assert_array_equal(levels, whole[name][jnp.array(order)], err_msg=name)


def test_a_higher_level_flips_the_objects_of_the_lower_levels_too():
    rows = 400
    truth = np.zeros((rows, 2, 2), bool)
    truth[:, :, 0] = True
    box = np.ones_like(truth)
    study = STUDY._replace(names=('flip',))
    levels = degraded_objects(study, truth, box, np.arange(rows), KEY)['flip']
    is_flipped = np.asarray(levels[:, :, 0, 0]) == 0
    assert not is_flipped[:, 0].any()
    assert (is_flipped[:, 1:-1] <= is_flipped[:, 2:]).all()
    np.testing.assert_allclose(is_flipped.mean(0), [0, 0.25, 0.5, 0.75], atol=0.08)


def test_moments_leave_out_padding_and_nan():
    values = np.array([[1.0, np.nan], [3.0, 5.0], [np.nan, 7.0]], np.float32)
    mean = shapes.moments(jnp.array(values), jnp.array([1.0, 1.0, 0.0]))
    np.testing.assert_array_equal(mean.sum, [[4, 5], [10, 25]])
    np.testing.assert_array_equal(mean.count, [[2, 1]])


def scores_of(values, config=None):
    """Returns the scores of known similarities [B, T, 4, 3]."""
    config = config or make_config()
    task = shapes.make_task(config, SPEC, config.shapes)
    sums = {
        name: Mean(np.float32(4), np.float32(8))
        for name in ('accuracy', 'top5_accuracy', 'cross_entropy')
    }
    counts = np.zeros((4, 4))
    counts[:2, :2] = [[3, 1], [3, 1]]
    sums['confusion'] = Mean(counts, 1)
    sums['robustness'] = jax.tree.map(
        np.asarray, shapes.moments(jnp.asarray(values), jnp.ones(len(values)))
    )
    return shapes.finalize(task, STUDY, sums)


def test_scores_are_means_and_standard_errors_over_the_objects():
    values = np.random.default_rng(0).uniform(0.2, 1, (8, 6, 4, 3)).astype(np.float32)
    values[:, :, 0] = 1
    scores = scores_of(values)
    row = scores['falls']['flip 3']
    flips = values[:, shapes.NAMES.index('flip'), 3].astype(np.float64)
    falls = 1 - flips.mean(0)
    errors = flips.std(0, ddof=1) / np.sqrt(8)
    numbers = [row[key] for key in ('Sem', 'tIOU_fall', 'hamm_fall')]
    np.testing.assert_allclose(numbers, falls, rtol=1e-5)
    numbers = [row[key] for key in ('Sem_error', 'tIOU_fall_error', 'hamm_fall_error')]
    np.testing.assert_allclose(numbers, errors, rtol=1e-4)
    assert row['ratio_to_tIOU'] == pytest.approx(falls[0] / falls[1], rel=1e-5)
    assert scores['flip_sensitivity'] == pytest.approx(falls[0] / falls[1:].mean(), rel=1e-5)
    assert scores['baseline_chance'] == {'accuracy': 0.5}
    assert scores['baseline_commonest']['accuracy'] == 0.5


def test_the_report_draws_three_lines_for_each_transformation():
    values = np.full((8, 6, 4, 3), 0.75, np.float32)
    values[:, :, 0] = 1
    scores = scores_of(values)
    curves = report_scores.all_curves(scores)
    assert list(curves) == [f'robustness/{name}' for name in shapes.NAMES]
    for drawn in curves.values():
        assert [line.name for line in drawn.lines] == ['1-Sem', 'tIOU', 'hamm']
        for line in drawn.lines:
            assert line.x == [0, 1, 2, 3] and line.y == [1, 0.75, 0.75, 0.75]
    table = report_scores.split_scores(scores).tables['falls']
    assert len(table) == 18 and 'flip 2' in table
    assert '25.00' in report_scores.score_table({'falls': scores['falls']})


def test_objects_that_never_change_have_no_ratio():
    scores = scores_of(np.ones((8, 6, 4, 3), np.float32))
    assert scores['flip_sensitivity'] is None
    assert scores['falls']['erosion 1']['ratio_to_tIOU'] is None


def test_the_study_can_be_left_out():
    config = make_config(transformations=())
    stage = make_stage(config)
    batch = batch_of()
    state = stage.init(jax.random.key(0), batch, {})
    metrics = jax.jit(stage.eval_step)(state, batch, {'transformations': KEY})
    assert 'robustness' not in metrics
    scores = stage.finalize(jax.tree.map(np.asarray, metrics))
    assert 'falls' not in scores and scores['accuracy'] is not None
    pictures = jax.eval_shape(stage.render, state, batch, {'transformations': KEY})
    assert list(pictures) == ['input']


# --- the stage ------------------------------------------------------------------------------------


def run_steps(config, num_steps=1, devices=1, batch=None):
    """Returns (state, losses) after steps on one batch."""
    stage = make_stage(config)
    topology = parallel.topology('pmap', devices)
    batch = batch_of() if batch is None else batch
    root = rng.root(0, 'test')

    def step(state, batch):
        keys = rng.streams(root, stage.streams, state.step, parallel.device_index())
        keys['transformations'] = KEY
        state, metrics = stage.train_step(state, batch, keys)
        return state, parallel.sum_over_devices(dict(metrics)), parallel.replica_mismatch(state)

    step = topology.spmd(step, num_args=2)
    state = topology.put_replicated(parallel.to_host(stage.init(root, batch, {})))
    losses = []
    for _ in range(num_steps):
        state, metrics, mismatch = step(state, topology.put_batch(batch))
        losses.append(float(parallel.to_host(metrics['loss']).value()))
        assert int(mismatch) == 0
    return parallel.to_host(state), losses


@pytest.mark.slow
def test_a_step_is_the_same_on_one_device_and_on_eight():
    with jax.enable_x64(True):
        config = make_config(train={'dtype': 'float64'})
        start, _ = run_steps(config, 0)
        expected, _ = run_steps(config, 1)
        state, _ = run_steps(config, 1, devices=8)
    moves = [jax.tree.map(np.subtract, after.params, start.params) for after in (state, expected)]
    leaves = jax.tree_util.tree_leaves_with_path(moves[0])
    for (path, a), b in zip(leaves, jax.tree.leaves(moves[1]), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b) + 1e-6, path


@pytest.mark.slow
def test_outlines_are_learned_also_in_bfloat16_and_micro_batches():
    config = make_config(train={'dtype': 'bfloat16', 'accumulate': 2})
    config.shapes.optim.update(name='adam', learning_rate=0.01)
    state, losses = run_steps(config, 12)
    assert losses[-1] < losses[0] - 0.1
    chex.assert_tree_all_finite(state.params)


def evaluated(batch_size, devices):
    """Returns the sums of an evaluation of eleven objects in padded batches."""
    config = make_config()
    stage = make_stage(config)
    topology = parallel.topology('pmap', devices)
    whole = batch_of(11)
    state = stage.init(jax.random.key(0), whole, {})

    def evaluate(state, batch):
        metrics = stage.eval_step(state, batch, {'transformations': KEY})
        return parallel.sum_over_devices(metrics)

    step = topology.spmd(evaluate, num_args=2)
    state = topology.put_replicated(parallel.to_host(state))
    sums = []
    for start in range(0, 11, batch_size):
        rows = np.arange(start, start + batch_size)
        batch = {key: value[np.where(rows < 11, rows, 0)] for key, value in whole.items()}
        batch['weight'] = (rows < 11).astype(np.float32)
        sums.append(parallel.to_host(step(state, topology.put_batch(batch))))
    return stage, jax.tree.map(lambda *x: sum(x), *sums)


def test_scores_depend_neither_on_the_batch_size_nor_on_devices():
    stage, whole = evaluated(11, 1)
    _, parts = evaluated(8, 8)
    np.testing.assert_array_equal(parts['robustness'].count, whole['robustness'].count)
    np.testing.assert_allclose(parts['robustness'].sum, whole['robustness'].sum, rtol=1e-4)
    scores = stage.finalize(whole)
    assert scores['robustness'].keys() == set(shapes.NAMES)
    for row in scores['falls'].values():
        assert 0 <= row['Sem'] <= 1


def test_the_frozen_classifier_is_the_net_of_the_evaluation_and_gives_sem():
    config = make_config()
    state, _ = run_steps(config, 2)
    task = shapes.make_task(config, SPEC, config.shapes)
    frozen = shapes.make_classify(config, SPEC, config.shapes)

    @jax.jit
    def classify(planes):
        return frozen(state.params['classifier'], state.model_state['classifier'], planes)

    planes = jnp.asarray(batch_of()['planes'], jnp.float32)
    np.testing.assert_allclose(
        classify(planes),
        jax.jit(functools.partial(classification.classify, task))(state, planes),
        atol=1e-6,
    )
    objects_, box = planes[..., 0], planes[..., 1]
    others = jnp.roll(objects_, 1, 0) * box
    np.testing.assert_array_equal(sem.sem(classify, objects_, objects_, box), 0)
    distance = sem.sem(classify, others, objects_, box)
    np.testing.assert_allclose(distance, sem.sem(classify, objects_, others, box), atol=1e-6)
    assert ((distance >= 0) & (distance <= 1)).all() and distance.max() > 0


def test_the_section_sets_loss_optimiser_and_net():
    config = make_config(label_smoothing=0.25)
    task = shapes.make_task(config, SPEC, config.shapes)
    assert task.label_smoothing == 0.25 and task.names == CLASSES
    config.shapes.optim.update(schedule='poly', warmup_steps=100)
    stage = make_stage(config)
    with pytest.raises(InputError, match=r'shapes\.optim\.warmup_steps'):
        jax.eval_shape(stage.init, jax.random.key(0), batch_of(), {})


def test_pictures_are_the_shape_and_the_levels_of_each_transformation():
    config = make_config()
    stage = make_stage(config)
    batch = batch_of(2)
    state = stage.init(jax.random.key(0), batch, {})
    pictures = jax.jit(stage.render)(state, batch, {'transformations': KEY})
    assert set(pictures) == {'input', *shapes.NAMES}
    train_ids = [SPEC.classes.names.index(CLASSES[place]) for place in batch['class_id']]
    assert pictures['input'].values['true class'].tolist() == train_ids
    strip = pictures['erosion']
    chex.assert_shape(strip.pixels, (2, 4, SIZE, SIZE, 3))
    np.testing.assert_array_equal(
        strip.pixels[:, 0, ..., 0], pictures['input'].pixels[:, 0, ..., 0]
    )
    assert strip.values.keys() == {'1-Sem', 'tIOU', 'hamm'}
    np.testing.assert_allclose(strip.values['tIOU'][:, 0], 1)
    eroded = shape.transformed(
        'erosion', 2, batch['planes'][..., 0], batch['planes'][..., 1] > 0, None
    )
    painted = strip.pixels[:, 2, ..., 0] == classification.OBJECT
    np.testing.assert_array_equal(painted, eroded == 1)
