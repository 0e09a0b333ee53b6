"""Runs that start from published weights: loaded arrays, preparation of images, refusals."""

import types

import chex
import jax
import numpy as np
import pytest

from segjax import config as config_lib
from segjax import pretrained
from segjax.core import files
from segjax.core.trees import named_leaves
from segjax.errors import InputError
from segjax.ops import images
from segjax.protocol import TrainState
from segjax.train import driver, initialization, stored
from segjax.train.run import NetSource, Run

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')


def make_config(path='', **init_from):
    config = config_lib.defaults('supervised')
    config.model.update(width=0.25, first_maps=32, blocks=(0, 1, 0, 0))
    config_lib.update(
        config,
        augment=dict(crop=(32, 64)),
        data=dict(eval_size=(32, 64), threads=1, world=dict(num_train=8, num_val=8, size=(32, 64))),
        train=dict(batch_size=8),
        init_from=dict(path=str(path), **init_from),
    )
    return config


@pytest.fixture(scope='module')
def abstract(tmp_path_factory):
    """Returns the parameters and statistics of the configured net, as shapes."""
    run, (stage,) = driver.open_run(make_config(), str(tmp_path_factory.mktemp('shapes')), 'train')
    state = initialization.abstract_state(run, stage, {})
    return {'params': state.params['segmenter'], **state.model_state['segmenter']}


def weights(abstract, key, path, change=lambda tensors: None):
    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: draw.random(s.shape, np.float32), abstract)
    tensors = pretrained.export_weights(variables, pretrained.SOURCES[key])
    change(tensors)
    pretrained.write(str(path), tensors)
    return named_leaves(variables)


def named(state):
    return named_leaves({'params': state.params['segmenter'], **state.model_state['segmenter']})


def test_all_arrays_are_the_files_and_the_images_are_prepared_its_way(
    abstract, tmp_path, capsys, monkeypatch
):
    path = tmp_path / 'encoder.safetensors'
    # A stage binds the function when it is made.
    schemes = []
    normalize = images.normalize
    monkeypatch.setattr(
        images,
        'normalize',
        lambda image, scheme: schemes.append(scheme) or normalize(image, scheme),
    )
    expected = weights(abstract, 'erfnet_encoder', path)
    config = make_config(path)
    run, (stage,) = driver.open_run(config, str(tmp_path / 'run'), 'train')
    assert (config.preprocess, run.config.preprocess) == ('unit', 'imagenet')
    initialised = named(initialization.initial_state(run, stage, {}))
    scratch = named(initialization.initial_state(run._replace(source=lambda: None), stage, {}))
    for name, array in initialised.items():
        np.testing.assert_array_equal(array, (expected if '/encoder/' in name else scratch)[name])
    printed = capsys.readouterr().out
    assert (
        'Eromera' in printed
        and '+ encoder: ' in printed
        and '- decoder: keeps its random initialisation' in printed
    )
    # The stage was made with that preparation.
    schemes.clear()
    jax.eval_shape(
        stage.predict,
        initialization.initial_state(run, stage, {}),
        np.zeros((1, 32, 64, 3), np.uint8),
    )
    assert set(schemes) == {'imagenet'}


def test_nets_of_an_earlier_stage_are_not_listed_as_loaded(abstract, tmp_path, capsys):
    path = tmp_path / 'w.npz'
    weights(abstract, 'erfnet', path)
    run, (stage,) = driver.open_run(make_config(path), str(tmp_path / 'run'), 'train')
    before = initialization.initial_state(run._replace(source=lambda: None), stage, {})
    capsys.readouterr()
    after = initialization.initial_state(run, stage, {'before': before})
    chex.assert_trees_all_equal(after.params, before.params)
    assert '+ ' not in capsys.readouterr().out


def test_patterns_choose_parameters_and_their_statistics(abstract, tmp_path):
    path = tmp_path / 'w.npz'
    expected = weights(abstract, 'erfnet', path)
    run, (stage,) = driver.open_run(
        make_config(path, nets=('segmenter/encoder/.*',)), str(tmp_path / 'run'), 'train'
    )
    for name, array in named(initialization.initial_state(run, stage, {})).items():
        assert np.array_equal(array, expected[name]) == ('/encoder/' in name), name


def test_a_frozen_net_without_parameters_is_refused(abstract, tmp_path):
    path = tmp_path / 'w.npz'
    weights(abstract, 'erfnet', path)

    def check(config, net, **replaced):
        run, (stage,) = driver.open_run(config, str(tmp_path / 'run'), 'train')
        state = initialization.abstract_state(run, stage, {})
        stages = (stage._replace(frozen=(net,)),)
        initialization.check_frozen(run._replace(**replaced), stages, {stage.name: state})
        return state

    state = check(make_config(path), 'segmenter')
    sources = make_config()
    sources.init_from.sources = (('segmenter', str(path)),)
    check(sources, 'segmenter')
    other_run = {'params': {'painter': state.params['segmenter']}, 'model_state': {}}
    for config, words, replaced in (
        (make_config(), 'any source', {}),
        (make_config(path), str(path), {'source': lambda: other_run}),
    ):
        with pytest.raises(InputError, match='segmenter') as error:
            check(config, 'segmenter', **replaced)
        assert words in error.value.got and "(('segmenter', 'runs/segmenter'),)" in error.value.fix
    other_net = {'params': {'segmenter': {'conv1_1': np.zeros(3)}}, 'model_state': {}}
    with pytest.raises(InputError, match="the net 'segmenter' with other layers"):
        check(make_config(path), 'segmenter', source=lambda: other_net)


def test_a_stage_checks_the_parameters_that_it_starts_from(abstract, tmp_path):
    path = tmp_path / 'w.npz'
    expected = weights(abstract, 'erfnet', path)
    run, (stage,) = driver.open_run(make_config(path), str(tmp_path / 'run'), 'train')

    def refuse(state):
        chex.assert_trees_all_equal(named(state), expected)
        raise InputError('nets', got='two nets', expected='nets of the same run')

    with pytest.raises(InputError, match='two nets'):
        initialization.initial_state(run, stage._replace(check_start=refuse), {})


@pytest.mark.parametrize('is_average', [True, False])
def test_a_net_that_an_earlier_stage_has_trained_is_kept(is_average, abstract, tmp_path):
    path = tmp_path / 'w.npz'
    weights(abstract, 'erfnet', path)
    config = make_config(path)
    config.train.ema = 0.9
    run, (stage,) = driver.open_run(config, str(tmp_path / 'run'), 'train')
    state = initialization.initial_state(run, stage, {})
    trained = jax.tree.map(lambda x: x + 1, state.params)
    if is_average:
        before = state.replace(extra={'ema': {**state.extra['ema'], 'params': trained}})
    else:
        before = state.replace(params=trained)
    later = stage._replace(init=lambda key, batch, earlier: state.replace(params=trained))
    after = initialization.initial_state(run, later, {'first': before})
    jax.tree.map(np.testing.assert_array_equal, after.params, trained)


@pytest.mark.parametrize('by_row', [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize('has_average', [True, False])
@pytest.mark.parametrize('is_frozen', [True, False])
def test_a_frozen_net_starts_from_the_averages_of_a_run(
    by_row, has_average, is_frozen, abstract, tmp_path
):
    run, (stage,) = driver.open_run(make_config(), str(tmp_path / 'run'), 'train')
    state = initialization.initial_state(run, stage, {})
    raw = jax.tree.map(lambda x: x + 1, state.params)
    averaged = jax.tree.map(lambda x: x + 2, state.params)
    fields = {'params': averaged if has_average else {}, 'model_state': {}}
    source = {'params': raw, 'model_state': state.model_state, 'averages': fields}
    if by_row:
        run = run._replace(sources=(NetSource('segmenter', 'runs/x', '', lambda: source),))
    else:
        run = run._replace(source=lambda: source)
    frozen = ('segmenter',) if is_frozen else ()
    loaded = initialization.initial_state(run, stage._replace(frozen=frozen), {})
    expected = averaged if is_frozen and has_average else raw
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected)
    # Averages do not make another start.
    without = {**source, 'averages': {}}
    assert initialization.digest(source) == initialization.digest(without)


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda t: t.pop('decoder.layers.0.bn.weight'),
            r'no tensor decoder\.layers\.0\.bn\.weight',
        ),
        (
            lambda t: t.update({'encoder.layers.0.conv.weight': np.ones((3, 3, 8, 8))}),
            r'\(3, 3, 8, 8\), not \(8, 8, 3, 3\)',
        ),
    ],
    ids=['missing', 'transposed'],
)
def test_a_wrong_file_is_refused_when_the_run_is_opened(abstract, tmp_path, change, message):
    path = tmp_path / 'w.npz'
    weights(abstract, 'erfnet', path, change)
    with pytest.raises(InputError, match=message) as caught:
        driver.open_run(make_config(path), str(tmp_path / 'run'), 'train')
    assert caught.value.where == str(path)
    driver.open_run(make_config(path, partial=True), str(tmp_path / 'run'), 'train')


def test_weights_of_another_net_are_refused(tmp_path):
    path = tmp_path / 'w.npz'
    pretrained.write(
        str(path), {f'{name}.weight': np.ones(2) for name in ('conv1', 'bn1', 'layer1.0.conv1')}
    )
    with pytest.raises(InputError, match='no array: segmenter'):
        driver.open_run(make_config(path), str(tmp_path / 'run'), 'train')


def test_a_preparation_that_contradicts_the_weights_is_an_error(abstract, tmp_path):
    path = tmp_path / 'w.npz'
    weights(abstract, 'erfnet_encoder', path)
    config = make_config(path)
    config.preprocess = 'caffe'
    with pytest.raises(
        InputError, match=r"'caffe'[\s\S]*'imagenet'[\s\S]*init_from\.preprocess=keep"
    ):
        driver.open_run(config, str(tmp_path / 'run'), 'train')
    config.init_from.preprocess = 'keep'
    run, _ = driver.open_run(config, str(tmp_path / 'run'), 'train')
    assert run.config.preprocess == 'caffe'


def test_a_pipeline_with_its_own_preparation_says_so():
    config = config_lib.defaults('noise_cyclegan')
    assert 'preprocess' not in config
    with pytest.raises(InputError, match='noise_cyclegan'):
        pretrained.adopt_scheme(config, 'imagenet', '')
    config.init_from.preprocess = 'keep'
    assert pretrained.adopt_scheme(config, 'imagenet', '') == config


@pytest.mark.parametrize('key', pretrained.SOURCES)
def test_the_scheme_is_that_of_the_named_source(key, tmp_path):
    path = tmp_path / 'w.npz'
    pretrained.write(str(path), {'in.no.known.naming': np.ones(1)})
    scheme = pretrained.open_weights(make_config(path, source=key).init_from).scheme
    assert scheme == pretrained.SOURCES[key].scheme and scheme in images.SCHEMES


def test_the_file_is_read_once_for_checks_and_all_stages(abstract, tmp_path, monkeypatch):
    path = tmp_path / 'w.npz'
    expected = weights(abstract, 'erfnet', path)
    read, opened = pretrained.read, []
    monkeypatch.setattr(pretrained, 'read', lambda path: opened.append(path) or read(path))
    run, (stage,) = driver.open_run(make_config(path), str(tmp_path / 'run'), 'train')
    for name in ('first', 'second'):
        state = initialization.initial_state(run, stage._replace(name=name), {})
        chex.assert_trees_all_equal(named(state), expected)
    assert opened == [str(path)]


def test_a_run_that_is_only_looked_at_reads_no_file(tmp_path):
    driver.open_run(make_config(tmp_path / 'gone.npz'), str(tmp_path / 'run'), 'evaluate')


def test_a_run_that_has_begun_needs_the_file_no_more(abstract, tmp_path):
    path = tmp_path / 'w.npz'
    weights(abstract, 'erfnet_encoder', path)
    config = make_config(path)
    config.train.num_steps = 0
    config.logging.num_pictures = 0
    begun = tmp_path / 'run'
    run, _ = driver.open_run(config, str(begun), 'train')
    (begun / 'segmentation/checkpoints/0/record').mkdir(parents=True)
    files.write_json(begun / driver.CONFIG, config_lib.to_json(run.config))
    path.unlink()
    again, _ = driver.open_run(config, str(begun), 'train')
    assert again.config.preprocess == 'imagenet'


def test_another_start_than_that_of_a_run_that_has_begun_is_said(tmp_path, capsys):
    run, stages = driver.open_run(
        make_config(tmp_path / 'new.npz'), str(tmp_path / 'run'), 'evaluate'
    )
    capsys.readouterr()
    initialization.tell_unused(run, stages)
    assert capsys.readouterr().out == ''
    (run.workdir / 'segmentation/checkpoints/0/record').mkdir(parents=True)
    for known, said in (('old.npz', True), ('', True), (str(tmp_path / 'run/../new.npz'), False)):
        files.write_json(run.workdir / files.START, {'init_from': {'path': known}})
        initialization.tell_unused(run, stages)
        printed = capsys.readouterr().out
        assert ('new.npz is not read for segmentation' in printed) == said
        assert (known or 'random parameters') in printed or not said


@pytest.mark.parametrize('mode', ['evaluate', 'predict'])
def test_an_adopted_preparation_holds_in_every_mode(abstract, tmp_path, mode):
    """The config file says 'unit', the run adopted 'imagenet' from its weights."""
    path = tmp_path / 'w.npz'
    weights(abstract, 'erfnet_encoder', path)
    config = make_config(path)
    begun = tmp_path / 'run'
    run, _ = driver.open_run(config, str(begun), 'train')
    (begun / 'segmentation/checkpoints/0/record').mkdir(parents=True)
    files.write_json(begun / driver.CONFIG, config_lib.to_json(run.config))
    files.write_json(begun / stored.SPEC, run.spec.to_json())
    opened, _ = driver.open_run(config, str(begun), mode)
    assert (config.preprocess, opened.config.preprocess) == ('unit', 'imagenet')
    config.preprocess = 'caffe'
    with pytest.raises(InputError, match="'caffe'"):
        driver.open_run(config, str(begun), mode)


def contents(folder):
    """Returns the content of every file in a folder, without the lock that a start takes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file() and path.name != '.lock'
    }


@pytest.mark.parametrize('rate', [None, 0.5])
def test_a_run_whose_only_checkpoint_lost_its_record_is_refused_unchanged(tmp_path, rate):
    config = make_config()
    config.logging.num_pictures = 0
    begun = tmp_path / 'run'
    run, _ = driver.open_run(config, str(begun), 'train')
    files.write_json(begun / driver.CONFIG, config_lib.to_json(run.config))
    files.write_json(begun / stored.SPEC, run.spec.to_json())
    (begun / 'segmentation/checkpoints/4/state').mkdir(parents=True)
    before = contents(begun)
    if rate is not None:
        config.optim.learning_rate = rate
    with pytest.raises(InputError, match='none of them readable'):
        driver.train(config, str(begun))
    assert contents(begun) == before


@pytest.mark.parametrize('name', ['4.orbax-checkpoint-tmp', 'damaged_4_1700000000'])
def test_a_save_that_was_cut_short_or_is_damaged_begins_no_run(tmp_path, name):
    (tmp_path / f'segmentation/checkpoints/{name}/record').mkdir(parents=True)
    assert not initialization.has_begun(tmp_path)
    (tmp_path / 'segmentation/checkpoints/4/record').mkdir(parents=True)
    assert initialization.has_begun(tmp_path)


@pytest.mark.parametrize('part', ['record', 'state', '.'])
def test_a_run_has_begun_whatever_its_numbered_checkpoint_lost(tmp_path, part):
    (tmp_path / 'segmentation/checkpoints/4' / part).mkdir(parents=True)
    assert initialization.has_begun(tmp_path)
    assert initialization.has_checkpoint(tmp_path / 'segmentation')


def test_a_numbered_file_begins_no_run(tmp_path):
    (tmp_path / 'segmentation/checkpoints').mkdir(parents=True)
    (tmp_path / 'segmentation/checkpoints/4').touch()
    assert not initialization.has_begun(tmp_path)


def state_with(*nets):
    params = {net: {'conv': {'kernel': np.zeros(3)}} for net in nets}
    statistics = {net: {} for net in nets}
    return TrainState(np.int32(0), params, statistics, opt_state={}, extra={})


@pytest.mark.parametrize('pattern, loads', [('.*', True), ('segmenter', True), ('x', False)])
def test_a_stage_may_have_no_net_of_another_run(pattern, loads):
    """As the shadow of a loaded victim. But some stage loads a net."""
    states = {
        'victim': state_with('segmenter'),
        'shadow': state_with('shadow'),
        'audit': state_with('segmenter', 'shadow'),
    }
    source = {'params': state_with('segmenter', 'bicycle').params, 'model_state': {}}
    init_from = types.SimpleNamespace(nets=(pattern,))
    run = Run(types.SimpleNamespace(init_from=init_from), {}, None, None, lambda: source)
    if loads:
        initialization._check_run_folder(run, states, source)
        return
    with pytest.raises(InputError, match='match nothing'):
        initialization._check_run_folder(run, states, source)
