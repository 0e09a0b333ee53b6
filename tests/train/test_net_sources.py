"""Nets that start from sources of their own, `config.init_from.sources`."""

import json
import shlex
import shutil

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import release_nets
import toy_run
from run_folders import assert_same_run, final_state

from segjax import config as config_lib
from segjax import models, pretrained
from segjax.config import config_file
from segjax.core import files, notes, trees
from segjax.errors import InputError
from segjax.protocol import TrainState
from segjax.report import page
from segjax.train import checkpoints, driver, initialization, net_sources, stored
from segjax.train.run import NetSource

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')

# --- files of published weights -------------------------------------------------------------------


def release(key, path, seed=0):
    """Writes random weights of a release. Returns the variables of the narrow net that has them."""
    draw = np.random.default_rng(seed)
    shapes = release_nets.abstract(*release_nets.NETS[key])
    variables = jax.tree.map(lambda leaf: draw.random(leaf.shape, np.float32), shapes)
    pretrained.write(str(path), pretrained.export_weights(variables, pretrained.SOURCES[key]))
    return variables


def state_of(**nets):
    """Returns a state with these variables by net."""
    params = {net: variables['params'] for net, variables in nets.items()}
    model_state = {}
    for net, variables in nets.items():
        model_state[net] = {kind: tree for kind, tree in variables.items() if kind != 'params'}
    return TrainState(jnp.int32(0), params, model_state, {}, {})


def rows_of(*sources):
    return initialization.open_net_sources(
        ml_collections.ConfigDict({'sources': sources, 'partial': False})
    )


def test_every_net_has_the_arrays_of_its_own_file(tmp_path):
    """A segmentation net and a feature net load from two files. A third net stays random."""
    segmenter = release('erfnet', tmp_path / 'segmenter.npz', seed=1)
    features = release('vgg', tmp_path / 'vgg16.safetensors', seed=2)
    random = jax.tree.map(np.zeros_like, segmenter)
    state = state_of(segmenter=random, vgg=jax.tree.map(np.zeros_like, features), generator=random)
    rows = rows_of(
        ('segmenter', str(tmp_path / 'segmenter.npz')),
        ('vgg', str(tmp_path / 'vgg16.safetensors')),
    )
    loaded, listings = net_sources.load(rows, state, partial=False)
    # The layers of the net behind the convolutions are no part of the file.
    found = trees.named_leaves(loaded.params['vgg'])
    expected = trees.named_leaves(features['params'])
    of_file = [name for name in found if 'conv' in name]
    assert len(of_file) == 26, list(found)
    for name in of_file:
        np.testing.assert_array_equal(found[name], expected[name])
    chex.assert_trees_all_equal(loaded.params['segmenter'], segmenter['params'])
    chex.assert_trees_all_equal(
        loaded.model_state['segmenter'], {'batch_stats': segmenter['batch_stats']}
    )
    chex.assert_trees_all_equal(loaded.params['generator'], random['params'])
    assert 'segmenter.npz' in listings[0] and 'vgg16.safetensors' in listings[1]
    assert all('config.preprocess stays' in listing for listing in listings)


@pytest.mark.parametrize('layers', [('conv1_2', 'conv5_2'), ('conv5_3',), ('conv2_1',)])
def test_a_feature_net_that_ends_early_loads_its_part_of_trained_weights(weights, layers):
    path = str(weights / 'vgg16_hed.safetensors')
    net = models.build('features', 'vgg16', dtype='float32', layers=layers)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    state = state_of(vgg=shapes)
    rows = rows_of(('vgg', path))
    net_sources.check(rows, {'training': state}, partial=False)
    loaded, (listing,) = net_sources.load(rows, state, partial=False)
    assert 'keeps its random initialisation' not in listing and 'imagenet' in listing

    # All arrays are those of the file, and images of numbers have finite features.
    tensors = pretrained.read(path)
    arrays = trees.named_leaves(loaded.params['vgg'])
    depth = {'conv2_1': 3, 'conv5_2': 12, 'conv5_3': 13}[layers[-1]]
    assert len(arrays) == 2 * depth
    kernel = arrays['vgg/conv2_1/kernel']
    np.testing.assert_array_equal(kernel, tensors['features.5.weight'].transpose(2, 3, 1, 0))
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    features = net.apply({'params': loaded.params['vgg']}, image)
    assert tuple(features) == layers
    chex.assert_tree_all_finite(features)


def test_a_release_can_be_named_where_the_names_of_tensors_fit_two(tmp_path):
    path = str(tmp_path / 'timm.npz')
    variables = release('efficientnet_timm', path)
    with pytest.raises(InputError, match='which could be') as caught:
        net_sources.load(rows_of(('painter', path)), state_of(painter=variables), partial=False)
    assert caught.value.where == path
    (argument,) = [word for word in shlex.split(caught.value.fix) if word.startswith('--')]
    typed = config_file.overridden(
        config_lib.defaults('supervised'), argument.removeprefix('--config.').rstrip(',')
    )
    ((pattern, same_path, named),) = typed.init_from.sources
    assert (pattern, same_path) == ('painter', path) and named in release_nets.ALIKE
    rows = initialization.open_net_sources(typed.init_from)
    loaded, _ = net_sources.load(rows, state_of(painter=variables), partial=False)
    chex.assert_trees_all_equal(loaded.params['painter'], variables['params'])


@pytest.mark.parametrize('partial', [False, True])
def test_a_file_that_fits_nothing_of_its_net_is_refused(tmp_path, partial):
    release('vgg', tmp_path / 'vgg16.npz')
    segmenter = release('erfnet', tmp_path / 'segmenter.npz')
    rows = rows_of(('segmenter', str(tmp_path / 'vgg16.npz')))
    with pytest.raises(InputError, match="net 'segmenter' has no array"):
        net_sources.check(rows, {'stage': state_of(segmenter=segmenter)}, partial)


def test_a_file_that_fits_partly_needs_partial(tmp_path):
    variables = release('erfnet', tmp_path / 'w.npz')
    tensors = pretrained.read(str(tmp_path / 'w.npz'))
    tensors.pop('decoder.layers.0.bn.weight')
    pretrained.write(str(tmp_path / 'w.npz'), tensors)
    rows = rows_of(('segmenter', str(tmp_path / 'w.npz')))
    state = {'stage': state_of(segmenter=variables)}
    with pytest.raises(InputError, match=r'no tensor decoder') as caught:
        net_sources.check(rows, state, False)
    assert '--config.init_from.partial=True' in caught.value.fix
    net_sources.check(rows, state, True)


# --- parameters of other runs ---------------------------------------------------------------------


@pytest.fixture(scope='module')
def donor(tmp_path_factory):
    """Returns the folder of a trained run."""
    workdir = tmp_path_factory.mktemp('donor') / 'run'
    config = toy_run.make_config(train=dict(num_steps=2), pretrain=dict(num_steps=2))
    driver.train(config, str(workdir))
    return workdir


def rows_from(donor):
    """Returns a trained head and a trained critic, from two stages of a run."""
    return (('head', str(donor / 'pretrain')), ('critic/', str(donor)))


def make_config(sources, **init_from):
    return toy_run.make_config(
        seed=1,
        pretrain=dict(num_steps=0),
        train=dict(num_steps=2),
        init_from=dict(sources=sources, **init_from),
    )


@pytest.fixture(scope='module')
def started(donor, tmp_path_factory):
    """Returns folder, config and scores of a run whose sources were deleted afterwards.

    Its first stage has 0 steps.
    """
    folder = tmp_path_factory.mktemp('started')
    source = shutil.copytree(donor, folder / 'source')
    config = make_config(rows_from(source))
    scores = driver.train(config, str(folder / 'run'))
    shutil.rmtree(source)
    return folder / 'run', config, scores


def initial_states(config, folder):
    run, stages = driver.open_run(config, str(folder), 'train')
    states = {}
    for stage in stages:
        states[stage.name] = initialization.initial_state(run, stage, states)
    return states


@pytest.mark.slow
def test_every_stage_with_the_net_loads_it_and_everything_else_is_random(donor, tmp_path):
    states = initial_states(make_config(rows_from(donor)), tmp_path)
    scratch = initial_states(make_config(()), tmp_path / 'scratch')
    head = final_state(donor, 'pretrain')['params/head/kernel']
    critic = final_state(donor)['params/critic/kernel']
    for state in states.values():
        np.testing.assert_array_equal(state.params['head']['kernel'], head)
    np.testing.assert_array_equal(states['adversarial'].params['critic']['kernel'], critic)
    for name in states:
        chex.assert_trees_all_equal(
            states[name].params['backbone'], scratch[name].params['backbone']
        )


def test_the_remaining_nets_come_from_the_path(donor, tmp_path):
    """Batch statistics come with the parameters of their net."""
    others = tmp_path / 'others'
    driver.train(toy_run.make_config(seed=5, train=dict(num_steps=0)), str(others))
    config = make_config(rows_from(donor)[:1], path=str(others))
    states = initial_states(config, tmp_path / 'run')
    theirs = final_state(others)
    for name, leaf in trees.named_leaves(
        {'params': states['pretrain'].params, 'model_state': states['pretrain'].model_state}
    ).items():
        source = final_state(donor, 'pretrain') if '/head/' in name else theirs
        np.testing.assert_array_equal(leaf, source[name], err_msg=name)


def test_a_net_that_an_earlier_stage_trained_is_not_loaded_again(donor, tmp_path):
    config = make_config(rows_from(donor))
    config.pretrain.num_steps = 1
    driver.train(config, str(tmp_path))
    first = final_state(tmp_path, 'pretrain')['params/head/kernel']
    assert not np.array_equal(first, final_state(donor, 'pretrain')['params/head/kernel'])
    run, stages = driver.open_run(config, str(tmp_path), 'train')
    before = driver.load_stage(run, stages[0], {}, 'last')
    state = initialization.initial_state(run, stages[1], {'pretrain': before})
    np.testing.assert_array_equal(state.params['head']['kernel'], first)


def test_the_run_folder_says_what_every_net_began_from(started, donor):
    workdir, config, _ = started
    content = json.loads((workdir / 'start.json').read_text())
    digests = [
        initialization.digest(checkpoints.load_params(str(path)))
        for path in (donor / 'pretrain', donor)
    ]
    paths = [path for _, path in config.init_from.sources]
    assert content['weights'] == {
        'backbone': {'pattern': '', 'path': '', 'digest': ''},
        'head': {'pattern': 'head', 'path': paths[0], 'digest': digests[0]},
        'critic': {'pattern': 'critic/', 'path': paths[1], 'digest': digests[1]},
    }
    assert content['digest'] == '' and content['init_from']['path'] == ''
    # Scores name the nets of their own stage.
    scores = {
        stage: json.loads((workdir / stage / 'scores.json').read_text())['made_by']['weights']
        for stage in ('pretrain', 'adversarial')
    }
    assert scores['pretrain'] == {'head': digests[0]}
    assert scores['adversarial'] == {'head': digests[0], 'critic': digests[1]}
    report = (workdir / 'report.html').read_text()
    card = report[report.index('<h3>Weights</h3>') :]
    assert digests[0] in card and digests[1] in card and paths[0] in card
    assert 'random' in card[card.index('backbone') : card.index(paths[0])]


def test_a_run_without_sources_writes_what_it_always_wrote(donor):
    content = json.loads((donor / 'start.json').read_text())
    assert list(content) == ['stages', 'steps', 'init_from', 'digest']
    scores = json.loads((donor / 'adversarial/scores.json').read_text())
    assert list(scores['made_by']) == ['step', 'data', 'config']
    assert '<h3>Weights</h3>' not in (donor / 'report.html').read_text()


def test_the_report_of_a_run_from_a_path_shows_it(tmp_path):
    init_from = {'path': 'weights/<w>.pth', 'nets': ['.*']}
    content = {'stages': [], 'steps': [], 'init_from': init_from, 'digest': '0123456789ab'}
    (tmp_path / 'start.json').write_text(json.dumps(content))
    page.write(tmp_path)
    text = (tmp_path / 'report.html').read_text()
    assert 'weights/&lt;w&gt;.pth' in text and '0123456789ab' in text


def test_a_run_that_has_begun_needs_its_sources_no_more(started, tmp_path):
    workdir, config, scores = started
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    for resumed in (config, make_config(())):
        assert driver.train(resumed, str(copy)) == scores
        assert driver.evaluate(resumed, str(copy)) == scores
    assert_same_run(workdir, copy, stages=('adversarial',))


@pytest.fixture
def stopped(started, donor, tmp_path):
    """Returns the folder of a run that stopped between its stages, and its rows."""
    copy = shutil.copytree(started[0], tmp_path / 'copy')
    shutil.rmtree(copy / 'adversarial')
    (copy / 'scores.json').unlink()
    return copy, rows_from(donor)


def test_a_later_stage_begins_from_the_same_parameters_at_another_place(stopped, started):
    copy, rows = stopped
    driver.train(make_config(rows), str(copy))
    assert_same_run(started[0], copy, stages=('adversarial',))


@pytest.mark.parametrize('change', ['dropped', 'exchanged', 'partial'])
def test_a_later_stage_refuses_other_sources_than_before(stopped, donor, change):
    copy, rows = stopped
    config = {
        'dropped': make_config(rows[:1]),
        'exchanged': make_config((('head', str(donor)), rows[1])),
        'partial': make_config(rows, partial=True),
    }[change]
    with pytest.raises(InputError, match="'adversarial', which has not begun") as caught:
        driver.train(config, str(copy))
    assert '--config.init_from.sources=' in caught.value.fix
    wrong = {'dropped': 'critic', 'exchanged': 'head', 'partial': 'partial'}[change]
    assert f'{wrong} from' in caught.value.got


def test_a_run_that_began_at_random_gets_no_sources_later(donor, tmp_path):
    copy = shutil.copytree(donor, tmp_path / 'copy')
    shutil.rmtree(copy / 'adversarial')
    config = toy_run.make_config(
        pretrain=dict(num_steps=2),
        train=dict(num_steps=2),
        init_from=dict(sources=rows_from(donor)[1:]),
    )
    with pytest.raises(InputError, match=r'critic/ from \w{12}') as caught:
        driver.train(config, str(copy))
    assert "--config.init_from.sources='()'" in caught.value.fix


def test_sources_that_are_not_read_are_said(started, donor, capsys, monkeypatch):
    monkeypatch.setattr(notes, '_told', set())
    workdir, config, _ = started
    run, stages = driver.open_run(config, str(workdir), 'train')
    capsys.readouterr()
    initialization.tell_unused(run, stages)
    assert capsys.readouterr().out == ''
    moved = run._replace(sources=rows_of(*rows_from(donor)))
    initialization.tell_unused(moved, stages)
    assert f'{donor} is not read for pretrain, adversarial' in capsys.readouterr().out


# --- refusals -------------------------------------------------------------------------------------


def changed(config, fix):
    """Returns a config with the first arguments of a fix, as a user types them."""
    words = [word for word in shlex.split(fix) if word.startswith('--config.')]
    assert words, fix
    assignments = [word.removeprefix('--config.').rstrip(',') for word in words]
    return config_file.overridden(config, ';'.join(assignments))


@pytest.mark.parametrize(
    'sources, message',
    [
        (('crític', '{donor}'), 'matches no net[\\s\\S]*backbone, critic, head'),
        (('heads', '{donor}'), 'matches no net'),
        (('head', '{donor}/nothing'), 'nothing'),
        (('head', '{donor}/gone.npz'), 'gone.npz'),
    ],
    ids=['no net', 'similar net', 'no folder', 'no file'],
)
def test_a_wrong_row_is_refused_before_anything_compiles(donor, tmp_path, sources, message):
    pattern, path = sources
    config = make_config(((pattern, path.format(donor=donor)), ('critic', str(donor))))
    with pytest.raises(InputError, match=message) as caught:
        driver.open_run(config, str(tmp_path), 'train')
    assert caught.value.where.startswith('config.init_from.sources')
    driver.open_run(changed(config, caught.value.fix), str(tmp_path), 'train')


def test_two_rows_for_a_net_are_refused(donor, tmp_path):
    config = make_config((('head', str(donor)), ('.*', str(donor))))
    with pytest.raises(InputError, match=r"'head' and '\.\*', which both match 'head'") as caught:
        driver.open_run(config, str(tmp_path), 'train')
    driver.open_run(changed(config, caught.value.fix), str(tmp_path), 'train')


def altered(donor, monkeypatch, change):
    """Replaces the parameters that are read from a run."""
    source = checkpoints.load_params(str(donor))
    change(source)
    monkeypatch.setattr(checkpoints, 'load_params', lambda path: source)


CHANGES = {
    'missing': (lambda source: source['params']['backbone']['Conv_0'].clear(), 'no params/backb'),
    'statistic': (lambda source: source['model_state'].clear(), r'no model_state/backbone'),
    'surplus': (
        lambda source: source['params']['backbone'].update(more=np.ones(2)),
        'unexpected params/backbone/more',
    ),
    'shape': (
        lambda source: source['params']['backbone']['Conv_0'].update(kernel=np.ones(3)),
        r'kernel: \(3,\), not \(3, 3, 3, 6\)',
    ),
}


@pytest.mark.parametrize('change', CHANGES)
def test_a_net_of_a_run_that_fits_partly_needs_partial(donor, tmp_path, monkeypatch, change):
    alter, message = CHANGES[change]
    altered(donor, monkeypatch, alter)
    config = make_config((('backbone', str(donor)),))
    with pytest.raises(InputError, match=message) as caught:
        driver.open_run(config, str(tmp_path), 'train')
    assert caught.value.where == str(donor)
    assert f'--mode config --workdir {donor} prints' in caught.value.fix
    run, _ = driver.open_run(changed(config, caught.value.fix), str(tmp_path), 'train')
    assert run.config.init_from.partial


def test_a_fix_names_the_run_of_a_stage_and_of_the_best_checkpoint(tmp_path):
    files.write_json(tmp_path / 'run/config.json', {})
    for text in ('run', 'run:best', 'run/shapes', 'run/shapes/checkpoints/10'):
        row = NetSource('classifier', str(tmp_path / text), '', load=dict)
        fix = net_sources._fix_of_other_net(row, num_fitting=3)
        assert f'--workdir {tmp_path}/run prints' in fix and 'loads the 3 that fit' in fix


def test_a_run_without_the_net_is_refused_with_the_nets_that_it_has(donor, tmp_path):
    config = make_config((('critic', str(donor / 'pretrain')),))
    with pytest.raises(InputError, match='nets backbone, head') as caught:
        driver.open_run(config, str(tmp_path), 'train')
    driver.open_run(changed(config, caught.value.fix), str(tmp_path), 'train')


@pytest.mark.parametrize(
    'sources, message',
    [
        ((('vgg',),), 'rows of'),
        ((('vgg', 'a', 'b', 'c'),), 'rows of'),
        (('vgg', 'weights.npz'), 'rows of'),
        ((('vgg', ''),), 'rows of'),
        ((('vgg', 3),), 'rows of'),
        ((('(', 'weights.npz'),), 'regular expressions'),
        ((('vgg', 'gs://bucket/vgg.npz'),), 'mounted file system'),
    ],
)
def test_rows_of_another_form_are_refused(sources, message):
    config = config_lib.defaults('supervised')
    config.init_from.sources = sources
    with pytest.raises(InputError, match=message) as caught:
        config_lib.validate(config)
    assert caught.value.where == 'config.init_from.sources'


def test_partial_has_a_meaning_next_to_a_run_if_there_are_sources(donor):
    config = config_lib.defaults('supervised')
    config_lib.update(config, init_from=dict(path=str(donor), partial=True))
    with pytest.raises(InputError, match='run folder'):
        config_lib.validate(config)
    config.init_from.sources = (('vgg', 'vgg.npz'),)
    config_lib.validate(config)


def test_the_preparation_of_images_is_never_adopted_from_a_row(tmp_path):
    """A feature net prepares its images itself."""
    release('vgg_caffe', tmp_path / 'w.npz')
    config = config_lib.defaults('supervised')
    config.init_from.sources = (('vgg', str(tmp_path / 'w.npz')),)
    source = initialization.reader(config.init_from)
    adopted = initialization.with_preprocess(config, tmp_path / stored.CONFIG, source)
    assert adopted.preprocess == config.preprocess == 'unit'
