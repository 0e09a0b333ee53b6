"""Tests --mode export: the program equals the run, also in a process without segjax."""

import json
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import run_readme
from predicting import CLASSES, make_stage, noise

from segjax import config as config_lib
from segjax.errors import InputError
from segjax.modes import export
from segjax.modes.export import examples, folder, page, program, uses
from segjax.protocol import Prediction, TrainState
from segjax.spec import Feature

pytest.importorskip('flatbuffers', reason='jax.export writes files with it')

SIZE = (16, 24)


def predict(state, image):
    """Returns probabilities of a net without parameters, in an order that the state holds."""
    scores = image.astype(jnp.float32) / 255
    return jax.nn.softmax(jnp.take(scores, state.params['order'], axis=-1))


def draw_apply(state, batch, keys):
    """Moves colours by noise: samples of a stage with random numbers."""
    moved = jax.vmap(lambda key: jax.random.randint(key, (3,), 0, 50))(keys['noise'])
    pixels = batch['image'] // 2 + moved[:, None, None, :].astype(jnp.uint8)
    return {'painted': pixels, 'mean': batch['image'].mean((1, 2, 3)), 'kind': batch['class']}


SAMPLING = Prediction(
    inputs={'image': Feature('image'), 'class': Feature('number', dtype='int32')},
    outputs={'painted': 'image', 'mean': 'table', 'kind': 'table'},
    apply=draw_apply,
    size=SIZE,
    streams=('noise',),
)


@pytest.fixture
def call(toy, tmp_path):
    """Returns a function that exports a toy run into `exported`, and returns (folder, record)."""

    def call(*stages, stage='', settings=None, **options):
        run = toy(*stages)
        config_lib.update(run.config, predict=settings or {})
        folder = tmp_path / 'exported'
        options = {'platforms': 'cpu', **options}
        return folder, export.main(
            run.config, str(run.workdir), str(folder), stage_name=stage, **options
        )

    return call


def test_the_readme_runs_the_program_without_segjax(call):
    folder, record = call(make_stage(predict=predict))
    (difference,) = record['differences']['stablehlo'].values()
    assert difference['largest'] == difference['share'] == difference['far'] == 0
    assert 0.3 < difference['scale'] < 0.7, 'probabilities of three classes'
    images = np.stack([noise(*SIZE, seed) for seed in range(3)])
    outputs, printed = run_readme(folder, {'image': images})
    scores = np.exp(images[..., [2, 0, 1]] / 255)
    expected = scores / scores.sum(-1, keepdims=True)
    np.testing.assert_allclose(outputs['probabilities'], expected, rtol=1e-5)
    assert printed.startswith('probabilities (2, 16, 24, 3) float32'), 'the call of the README'
    assert sorted(path.name for path in folder.iterdir()) == [
        'README.md',
        'classes.json',
        'export.json',
        'program.jax',
        'weights.npz',
    ]
    assert json.loads((folder / 'export.json').read_text())['differences'] == record['differences']


def test_classes_have_their_names_ids_and_colours(call):
    folder, _ = call(make_stage(predict=predict))
    classes = json.loads((folder / 'classes.json').read_text())
    assert [each['name'] for each in classes] == list(CLASSES.names)
    assert [each['id'] for each in classes] == [7, 26, 23]
    assert [each['color'] for each in classes] == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_samples_are_those_of_the_names(call):
    """Without an input for names, --mode predict could not be repeated."""
    folder, record = call(make_stage(prediction=SAMPLING))
    assert record['inputs']['draw'] == {'shape': ['B'], 'dtype': 'uint32'}
    assert 'size' not in record['inputs'], 'the program does not read it'
    images = np.stack([noise(*SIZE, seed) for seed in range(2)])
    draws = np.array([zlib.crc32(name.encode()) for name in ('a', 'b')], np.uint32)
    inputs = {'image': images, 'class': np.array([2, 1], np.int32), 'draw': draws}
    outputs, _ = run_readme(folder, inputs)

    # The keys of --mode predict: seed 0, stage, 'predict', stream and name.
    key = jax.random.key(0)
    for word in ('toy', 'predict', 'noise'):
        key = jax.random.fold_in(key, zlib.crc32(word.encode()))
    for row, name in enumerate(('a', 'b')):
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))
        moved = np.asarray(jax.random.randint(own, (3,), 0, 50))
        np.testing.assert_array_equal(outputs['painted'][row], images[row] // 2 + moved)
    np.testing.assert_array_equal(outputs['kind'], [2, 1])


def test_the_method_chooses_between_two_uses(call):
    both = make_stage(predict=predict, prediction=SAMPLING)
    _, record = call(both, settings=dict(method='prediction'))
    assert set(record['outputs']) == {'painted', 'mean', 'kind'}


def test_a_tile_is_the_size_of_images(call):
    _, record = call(make_stage(predict=predict), settings=dict(tile=(8, 12)), batch='5')
    assert record['inputs']['image']['shape'] == ['B', 8, 12, 3] and record['batch'] == 5


def test_planes_behind_colour_are_channels(call):
    stage = make_stage(predict=lambda state, image: predict(state, image[..., 3:]))
    _, record = call(stage._replace(predict_planes='hha'))
    assert record['inputs']['image']['shape'] == ['B', 16, 24, 6]


# --- arrays ---------------------------------------------------------------------------------------


def average_use():
    """Returns a use that adds the average of a net, as evaluations do."""

    def apply(state, inputs):
        averages = state.extra['ema']['params']['net']['w']
        weight = jnp.where(state.step > 0, averages, state.params['net']['w'])
        return {'sum': inputs['image'].astype(jnp.float32) * weight}

    shapes = {'image': jax.ShapeDtypeStruct((2, 2, 3), 'uint8')}
    return uses.Use(apply, shapes, {'image': Feature('image')}, {'sum': 'image'}, (2, 2))


@pytest.mark.parametrize('step', [0, 1])
def test_averages_take_the_place_of_parameters(step):
    params = {'net': {'w': np.float32(3)}, 'other': {'w': np.ones(1000, np.float32)}}
    extra = {'ema': {'params': {'net': {'w': np.float32(5)}}, 'model_state': {}}}
    state = TrainState(np.int32(step), params, {}, {'adam': np.ones(9, np.float32)}, extra)
    made = program.make_program(average_use(), state)
    assert {'params/net/w'} <= set(made.weights) <= {'params/net/w', 'step'}, 'each array once'
    image = np.ones((2, 2, 2, 3), np.uint8)
    result = made.function(made.weights, {'image': image})['sum']
    np.testing.assert_array_equal(result, np.full(image.shape, 5.0 if step else 3.0))


def test_the_difference_of_outputs():
    expected = {'a': np.array([1.0, 2.0, np.nan, -4.0]), 'b': np.array([True, False])}
    values = {'a': np.array([1.0, 2.5, np.nan, -4.0]), 'b': np.array([True, True])}
    differences = examples.compare(values, expected)
    assert differences['a'] == (0.5, 4.0, 0.25, 0.25)
    assert differences['b'] == (1.0, 1.0, 0.5, 0.5)


# --- wrong input ----------------------------------------------------------------------------------


def counting(state, image):
    """Needs the number of images while it is traced."""
    rows = [predict(state, image[row : row + 1]) for row in range(image.shape[0])]
    return jnp.concatenate(rows)


def test_a_program_that_counts_its_examples_needs_their_number(call):
    stage = make_stage(predict=counting)
    with pytest.raises(InputError) as error:
        call(stage)
    assert (error.value.where, error.value.fix) == ('--batch', '--batch 1')
    _, record = call(stage, batch='1')
    assert record['differences']['stablehlo']['probabilities']['largest'] == 0


@pytest.mark.parametrize(
    'options, where, fragment',
    [
        (dict(platforms='cpu,gpu'), '--platforms', "'gpu'"),
        (dict(platforms=''), '--platforms', "''"),
        (dict(formats='stablehlo,onx'), '--formats', "'onx'"),
        (dict(batch='0'), '--batch', "'0'"),
        (dict(batch='some'), '--batch', "'some'"),
        (dict(stage='second'), '--stage', "'second'"),
    ],
)
def test_a_wrong_request_leaves_nothing(call, tmp_path, options, where, fragment):
    with pytest.raises(InputError) as error:
        call(make_stage(predict=predict), **options)
    assert error.value.where == where and fragment in error.value.got
    assert not list(tmp_path.iterdir())


def test_a_stage_that_cannot_predict_is_refused(call):
    with pytest.raises(InputError) as error:
        call(make_stage(name='first'), make_stage(predict=predict), stage='first')
    assert error.value.where == '--stage' and error.value.fix == '--stage toy'


def test_a_pipeline_that_cannot_predict_is_refused(call):
    with pytest.raises(InputError, match='--mode export'):
        call(make_stage())


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / 'file').write_text('mine')
    with (
        pytest.raises(InputError, match='a folder to write to'),
        folder.new_folder(tmp_path / 'file/exported'),
    ):
        pytest.fail('there is no folder')


def test_a_folder_that_exists_stays_as_it_is(call, tmp_path):
    (tmp_path / 'exported').mkdir()
    (tmp_path / 'exported/mine.txt').write_text('mine')
    with pytest.raises(InputError, match='which exists'):
        call(make_stage(predict=predict))
    assert [path.name for path in (tmp_path / 'exported').iterdir()] == ['mine.txt']


def test_an_error_on_the_way_leaves_no_folder(call, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError('no space left on device')

    monkeypatch.setattr('segjax.modes.export.page.readme', fail)
    with pytest.raises(OSError, match='no space'):
        call(make_stage(predict=predict))
    assert not list(tmp_path.iterdir())


def test_a_net_of_no_release_has_no_safetensors(call, tmp_path):
    with pytest.raises(InputError, match='--formats safetensors'):
        call(make_stage(predict=predict), formats='stablehlo,safetensors')
    assert not list(tmp_path.iterdir())


def test_an_absent_package_is_named(call, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(InputError, match='pip install flatbuffers'):
        call(make_stage(predict=predict))


def test_another_platform_is_not_compared(call, capsys):
    _, record = call(make_stage(predict=predict), platforms='tpu')
    assert record['differences'] == {'stablehlo': None} and record['platforms'] == ('tpu',)
    assert 'not compared' in capsys.readouterr().out


def test_an_input_that_is_a_number_has_a_meaning_by_its_name():
    exported = types.SimpleNamespace(
        program=types.SimpleNamespace(inputs={'class_id': jax.ShapeDtypeStruct((), np.int32)}),
        use=types.SimpleNamespace(features={'class_id': Feature('number', dtype='int32')}),
    )
    (cells,) = page.described_inputs(exported).values()
    assert cells == ['[B] int32', 'train id of a class, its place in classes.json']
