"""Boundary strength by HED: weights from files, as a method of derived features."""

import functools
import pickle
import shutil

import cv2
import jax
import jax.numpy as jnp
import layouts
import numpy as np
import pytest

from segjax import data, pretrained
from segjax.data import computation, derived, regions
from segjax.data import edges as edge_methods
from segjax.data.records import never_stop
from segjax.errors import InputError
from segjax.models.boundary.hed import HED
from segjax.ops import images
from segjax.protocol import Input
from segjax.tasks import edges

NARROW = functools.partial(HED, width=1 / 32)


@pytest.fixture
def narrow(monkeypatch, tmp_path):
    """(parameters of a narrow HED, its two files), which replaces HED."""
    monkeypatch.setattr(edges, 'HED', NARROW)
    edges._detector.cache_clear()
    sample = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(NARROW().init, jax.random.key(0), sample)['params']
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), params)
    files = []
    for name, naming in (('vgg', pretrained.SOURCES['vgg']), ('sides', edges.SIDES)):
        path = str(tmp_path / f'{name}.safetensors')
        pretrained.write(path, pretrained.export_weights({'params': params}, naming))
        files.append(path)
    yield params, files
    edges._detector.cache_clear()


def image_of(size=(40, 56)):
    return np.random.default_rng(3).integers(0, 256, (*size, 3)).astype(np.uint8)


def test_the_files_have_the_names_of_the_release(narrow):
    _, (vgg_file, side_file) = narrow
    names = {f'features.{n}' for n in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)}
    sides = {'dsn1', 'dsn2', 'dsn3', 'dsn4', 'dsn5', 'fuse'}
    for file, layers in ((vgg_file, names), (side_file, sides)):
        assert {name.rpartition('.')[0] for name in pretrained.read(file)} == layers


def test_the_strength_is_the_squared_probability_of_the_net(narrow):
    params, files = narrow
    image = image_of()
    normalized = images.normalize(image[None], 'imagenet')
    outputs = jax.jit(NARROW().apply)({'params': params}, normalized)
    expected = jax.nn.sigmoid(outputs['logits'][0, ..., 0]) ** 2
    strength = edges.hed(*files).compute({'image': image})
    assert strength.dtype == np.float32 and strength.shape == (40, 56)
    np.testing.assert_allclose(strength, expected, atol=1e-5)


def test_a_process_loads_the_weights_once_and_compiles_once_for_each_size(narrow, monkeypatch):
    _, files = narrow
    reads = []
    read = pretrained.read
    monkeypatch.setattr(pretrained, 'read', lambda path: reads.append(path) or read(path))
    compute = pickle.loads(pickle.dumps(edges.hed(*files).compute))
    for size in ((40, 56), (40, 56), (32, 48), (40, 56)):
        compute({'image': image_of(size)})
    assert reads == list(files)
    assert edges._detector(*files).func._cache_size() == 2


def test_regions_grow_from_the_strength_of_the_net(narrow):
    _, files = narrow
    method = edges.hed(*files)
    feature = regions.region_feature(edges=method, threshold=0.01, num_regions=30)
    ids = feature.compute({'image': image_of()})
    strength = method.compute({'image': image_of()})
    tree = regions.image_hierarchy(image_of(), strength)
    np.testing.assert_array_equal(ids, tree.limited_cut(0.01, 30))
    assert feature.settings['edge_settings'] == method.settings


def test_the_recipe_depends_on_the_content_of_the_files_and_not_on_their_place(narrow, tmp_path):
    _, (vgg_file, side_file) = narrow
    copy = tmp_path / 'copy.safetensors'
    shutil.copy(vgg_file, copy)
    first = edges.hed(vgg_file, side_file).settings
    assert edges.hed(str(copy), side_file).settings == first
    assert edges.hed(side_file, side_file).settings != first


def test_a_missing_file_is_refused_before_anything_is_loaded(narrow, tmp_path):
    _, (vgg_file, side_file) = narrow
    absent = str(tmp_path / 'absent.safetensors')
    for files in ((absent, side_file), (vgg_file, absent)):
        with pytest.raises(InputError, match='which is no file') as error:
            edges.hed(*files)
        assert 'absent' in error.value.got


def test_files_in_the_wrong_order_are_refused(narrow):
    _, (vgg_file, side_file) = narrow
    with pytest.raises(InputError, match='tensors match') as error:
        edges.hed_strength(image_of(), side_file, vgg_file)
    assert 'side outputs' in error.value.fix and 'config' not in error.value.fix


@pytest.mark.slow
def test_published_weights_find_the_outline_of_an_aeroplane(weights, real_data):
    files = (weights / 'vgg16_hed.safetensors', weights / 'hed_side.safetensors')
    path = real_data / 'bsds_bench/images/3063.jpg'
    if not path.is_file() or not all(file.is_file() for file in files):
        pytest.skip('no weights of HED, or no image')
    edges._detector.cache_clear()
    image = cv2.imread(str(path))[..., ::-1]
    strength = edges.hed_strength(image, *map(str, files))
    contrast = edge_methods.color_strength(image)
    # The net knows the outline of the wing, and the clouds are fainter.
    assert strength[80:130, 210:225].max() > 0.8
    assert np.quantile(strength, 0.5) < 0.02 < 0.6 < np.quantile(strength, 0.99)
    assert np.corrcoef(strength.ravel(), contrast.ravel())[0, 1] > 0.3


@pytest.mark.slow
def test_a_worker_process_computes_the_strength_of_this_process(weights, tmp_path):
    files = [str(weights / f'{name}.safetensors') for name in ('vgg16_hed', 'hed_side')]
    config = layouts.data_config('streets', '', tmp_path)
    config.world.update(num_train=2, num_val=1, size=(32, 64))
    prepared = data.prepare(config)
    features = (edge_methods.strength_feature(edges.hed(*files)),)
    spec = derived.promised(prepared.spec, features)
    prepared = prepared._replace(spec=spec, derived=features)
    inputs = Input('train', 1, ('planes_edges',), (32, 64))
    computation.make(prepared.store, [inputs], 1, never_stop)
    edges._detector.cache_clear()
    for example in prepared.open_split('train', ('image', 'planes_edges')):
        expected = edges.hed_strength(example['image'], *files)
        np.testing.assert_allclose(example['planes_edges'][..., 0], expected, atol=1e-4)
