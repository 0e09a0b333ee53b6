"""--mode audit of a run: its images, its posteriors, its shadows, and what is refused."""

import dataclasses
import json
import shutil
import types

import jax
import ml_collections
import numpy as np
import pytest
import toy_run

from segjax import main
from segjax.core import parallel
from segjax.errors import InputError
from segjax.modes import audit
from segjax.modes.audit import images, nets, shadows
from segjax.train import driver
from segjax.train.stop import StopSignal


@pytest.fixture(scope='module', autouse=True)
def one_device_for_all():
    """Gives the run one of the eight devices of the tests: it compiles faster."""
    one = parallel.topology('pmap', 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            parallel,
            'topology',
            lambda mode, options=(): dataclasses.replace(one, mode=mode, options=options),
        )
        yield


@pytest.fixture(scope='module')
def config():
    return toy_run.make_config(train=dict(num_steps=1), pretrain=dict(num_steps=2))


@pytest.fixture(scope='module')
def workdir(config, tmp_path_factory):
    """Returns the folder of a run of the toy pipeline: 16 images of train, 10 of val."""
    folder = tmp_path_factory.mktemp('runs') / 'victim'
    driver.train(config, str(folder))
    return folder


@pytest.fixture(scope='module')
def net(config, workdir):
    with StopSignal() as stop:
        return nets.open_net(config, str(workdir), '', stop)


def order(workdir, output, **changed):
    given = {
        'workdir': str(workdir),
        'stage': '',
        'checkpoint': 'last',
        'posteriors': '',
        'members': '',
        'nonmembers': '',
        'shadow': '',
        'output': str(output),
    }
    return audit.Order(**{**given, **changed})


def find(net, **changed):
    return images.find(net.run, net.stages, net.stage, order('w', 'o', **changed))


@pytest.fixture(scope='module')
def audited(config, workdir, tmp_path_factory):
    """Returns an audit of the run against a copy of itself as shadow, and its folder."""
    output = tmp_path_factory.mktemp('audit')
    twin = workdir.parent / 'twin'
    shutil.copytree(workdir, twin)
    return audit.main(config, order(workdir, output, shadow=str(twin))), output


# --- the whole mode -------------------------------------------------------------------------------


def test_signals_are_those_of_the_posteriors_of_the_run(audited, net):
    measured = audited[0].measured
    assert measured.member.sum() == 16 and len(measured.names) == 26
    state = nets.load_state(net, 'last')
    for split, rows in (('train', range(16)), ('val', range(16, 26))):
        source = net.run.datasets['data'].open_split(split, ('image', 'label', 'name'))
        for place in (0, len(source) - 1):
            example = source[place]
            p = np.asarray(net.stage.predict(state, example['image'][None])[0], np.float64)
            label = example['label']
            ys, xs = np.nonzero(label < p.shape[-1])
            truth = p[ys, xs, label[ys, xs]]
            row = rows[place]
            assert measured.names[row] == str(example['name'])
            loss = measured.signal('loss', 'none')[row]
            assert loss == pytest.approx(-np.log(truth).mean(), rel=1e-4)
            right = (p.argmax(-1) == label)[ys, xs].mean()
            assert measured.accuracy[row] == pytest.approx(right, abs=1e-3)


def test_files_and_facts(audited, workdir):
    result, output = audited
    assert {path.name for path in output.iterdir()} == {'audit.json', 'images.csv', 'audit.html'}
    made_by = json.loads((output / 'audit.json').read_text())['made_by']
    assert made_by['stage'] == 'adversarial' and made_by['posteriors'].startswith('32x64')
    assert made_by['images'] == '--members train --nonmembers val' and made_by['shadows'] == 'twin'
    # Members and non-members of a world are frames of different clips.
    assert {'colour', 'contrast', 'size', 'sequence', 'class_shares'} == set(
        result.confound.by_fact
    )
    assert result.confound.by_fact['size'] == pytest.approx(0.5, abs=0.2), 'all are equal'


def test_a_twin_knows_all_members(audited):
    missing = audited[0].attacks.missing
    reason = '16 of 26 images have no shadow that was trained without them'
    attacks = ('lira_online', 'lira_offline', 'lira_offline_one_sided', 'rmia')
    assert missing == dict.fromkeys(attacks, reason)


# --- the images -----------------------------------------------------------------------------------


def test_lists_of_names_and_splits(net, tmp_path):
    everything = find(net)
    assert len(everything.members.names) == 16 and everything.trained == 0
    names = everything.members.names[3:9]
    path = tmp_path / 'members.txt'
    path.write_text('\n'.join(names))
    chosen = find(net, members=str(path), nonmembers='val[:60%]')
    assert chosen.members.names == names and chosen.member.tolist() == [True] * 6 + [False] * 6
    assert chosen.members.contents == everything.members.contents[3:9]
    assert chosen.nonmembers.names == everything.nonmembers.names[:6]
    rest = tmp_path / 'rest.txt'
    rest.write_text('\n'.join(everything.nonmembers.names[::-1]))
    chosen = find(net, members=str(path), nonmembers=str(rest))
    assert chosen.nonmembers.names == everything.nonmembers.names[::-1]
    table = tmp_path / 'both.csv'
    lines = [f'{name},1' for name in names]
    lines += [f'{name},0' for name in everything.nonmembers.names]
    table.write_text('name,member\n' + '\n'.join(lines))
    assert find(net, members=str(table)).nonmembers.names == everything.nonmembers.names


def test_training_images_among_non_members_are_counted(net):
    assert find(net, members='val', nonmembers='train[:50%]').trained == 8


def test_a_part_of_a_split_is_trained_on(net):
    stage = net.stage._replace(train_input=net.stage.train_input._replace(part=(0.0, 0.5)))
    inside = images.of_training(net.run, (stage,), stage)
    everything = find(net).members.names
    chosen = np.sort(np.random.default_rng(0).permutation(16)[:8])
    assert inside.names == tuple(everything[i] for i in chosen)


@pytest.mark.parametrize(
    'changed, fragments',
    [
        ({'nonmembers': 'train[:50%]'}, ['8 images that are members and non-members']),
        ({'members': 'trian'}, ["no split 'trian'", 'train, val']),
        ({'nonmembers': 'val[:2]'}, ['2 non-members', 'at least 5']),
        ({'members': 'none.txt'}, ['none.txt', 'no such file']),
        ({'nonmembers': 'rest.txt'}, ['without a file of members', '--members members.txt']),
    ],
)
def test_wrong_images(net, changed, fragments):
    with pytest.raises(InputError) as error:
        find(net, **changed)
    for fragment in fragments:
        assert fragment in str(error.value)


def test_an_unknown_name(net, tmp_path):
    path = tmp_path / 'members.txt'
    path.write_text('nobody')
    with pytest.raises(InputError, match="'nobody', which the data set lacks"):
        find(net, members=str(path))


def test_a_run_without_training_images_needs_a_list(net):
    stage = net.stage._replace(train_input=None)
    with pytest.raises(InputError, match='trains on no images'):
        images.find(net.run, (stage,), stage, order('w', 'o'))


def test_the_defence_that_a_stage_declares_is_recorded(net):
    state = nets.load_state(net, 'last')
    config = ml_collections.ConfigDict(net.run.config.to_dict())
    config.testing = {'defence': 'gaussian'}
    other = net._replace(run=net.run._replace(config=config))
    assert 'defence of the stage' not in nets.described(other, state), 'a key of its own'
    guarded = net._replace(stage=net.stage._replace(predict_defence='gaussian 0.5'))
    assert nets.described(guarded, state)['defence of the stage'] == 'gaussian 0.5'


def test_an_evaluation_of_members_and_non_members_loses_the_members(net):
    """As the stage `audit` of membership inference."""
    both = net.stage._replace(eval_input=net.stage.eval_input._replace(split='train+val'))
    found = images.find(net.run, (both,), both, order('w', 'o'))
    everything = find(net)
    assert found.members.names == everything.members.names
    assert found.nonmembers.contents == everything.nonmembers.contents
    assert found.where == '--members train --nonmembers train+val without the members'
    same = net.stage._replace(eval_input=net.stage.eval_input._replace(split='train'))
    with pytest.raises(InputError, match='16 images that are members and non-members'):
        images.find(net.run, (same,), same, order('w', 'o'))


# --- posteriors -----------------------------------------------------------------------------------


def test_posteriors_are_those_of_the_crops_of_the_evaluation(net):
    """Each image of a batch has crops of its own size, and a pixel has the mean of its crops."""
    seen = []

    def predict(state, image):
        seen.append(image.shape[1:3])
        return image[..., :2].astype(np.float32) / state

    config = net.run.config.copy_and_resolve_references()
    config.evaluate.update(crop=(16, 24), stride=0.5)
    cropped = net._replace(
        run=net.run._replace(config=config), stage=net.stage._replace(predict=predict)
    )
    image = np.random.default_rng(0).integers(0, 255, (2, 32, 64, 3)).astype(np.uint8)
    size = np.array([[32, 64], [20, 50]])
    got = np.asarray(nets.posteriors_of(cropped, 100.0, image, size))
    for row, (height, width) in enumerate(size):
        expected = image[row, :height, :width, :2] / 100
        np.testing.assert_allclose(got[row, :height, :width], expected, rtol=1e-5)
    assert set(seen) == {(16, 24)}
    state = types.SimpleNamespace(step=0, params={}, model_state={}, extra={})
    assert nets.described(cropped, state)['posteriors'].endswith('in crops of 16x24')


def test_a_net_sees_its_planes_behind_colour(net, monkeypatch):
    """As an HHA net: the third of six channels is blue, the fourth the first of the planes."""
    seen = []

    def predict(state, image):
        seen.append(image)
        return np.full((*image.shape[:3], 2), 0.5, np.float32)

    sighted = net._replace(stage=net.stage._replace(predict=predict, predict_planes='hha'))
    found = find(net).members
    inputs = nets._inputs(sighted, found)
    assert inputs.features == ('image', 'label', 'hha') and inputs.size == (32, 64)
    monkeypatch.setattr(nets, 'batch_in_step', lambda run, inputs, batch: batch)
    generator = np.random.default_rng(0)
    batch = {
        'image': generator.integers(0, 255, (2, 8, 8, 3)).astype(np.uint8),
        'hha': generator.integers(0, 255, (2, 8, 8, 3)).astype(np.uint8),
        'label': np.zeros((2, 8, 8), np.int32),
        'size': np.full((2, 2), 8),
        'label_size': np.full((2, 2), 8),
    }
    numbers = nets._measure(sighted, sighted, inputs, 'victim')(None, batch)
    np.testing.assert_array_equal(seen[0][..., :3], batch['image'])
    np.testing.assert_array_equal(seen[0][..., 3:], batch['hha'])
    np.testing.assert_allclose(numbers.signals[:, 0, 0], np.log(2), rtol=1e-5)


@pytest.mark.parametrize('which', ['last', 'best'])
def test_the_checkpoint_of_the_command_is_loaded(net, monkeypatch, which):
    asked = []

    def load(run, stages, which, name):
        asked.append((which, name))
        return net.stage, {'x': np.ones(2)}

    monkeypatch.setattr(nets.driver, 'load_last_stage', load)
    state = nets.load_state(net, which)
    assert asked == [(which, 'adversarial')] and state['x'].tolist() == [1, 1]


def test_a_net_that_diverged_is_named(audited, net):
    measured = audited[0].measured
    nets._check_finite(net, measured)
    signals = measured.signals.copy()
    signals[3, 1, 0] = np.nan
    with pytest.raises(InputError, match='of 1 of 26 images') as error:
        nets._check_finite(net, measured._replace(signals=signals))
    assert measured.names[3] in error.value.got and 'best' in error.value.fix


@pytest.mark.slow
def test_shadows_do_not_know_the_secret_of_the_victim(audited, net, monkeypatch):
    secrets = [nets.defences.VICTIM]

    def ask(shadow, state, questions, place, stop, secret):
        secrets.append(secret)
        return types.SimpleNamespace(measured=audited[0].measured)

    monkeypatch.setattr(nets, 'ask', ask)
    monkeypatch.setattr(nets, 'load_state', lambda shadow, which: None)
    opened = [shadows.ShadowRun(net, frozenset())] * 2
    shadows.of_runs(opened, net, find(net), audited[0].measured, None)
    keys = [jax.random.key_data(nets.defences.secret(name)).tolist() for name in secrets]
    assert len(secrets) == 3 and len({tuple(key) for key in keys}) == 3


# --- runs that are refused ------------------------------------------------------------------------


def test_stages_without_posteriors(net):
    blind = net.stage._replace(name='blind', predict=None)
    with pytest.raises(InputError, match='predicts no posteriors'):
        nets._posterior_stage(net.run, (blind,), '')
    with pytest.raises(InputError, match='--stage adversarial'):
        nets._posterior_stage(net.run, (*net.stages, blind), 'blind')
    with pytest.raises(InputError, match="mean 'pretrain'"):
        nets._posterior_stage(net.run, net.stages, 'pretain')
    assert nets._posterior_stage(net.run, (*net.stages, blind), '').name == 'adversarial'


@pytest.mark.parametrize(
    'shadow, fragments',
    [
        ('{w}', ['the audited net', 'different nets']),
        ('/no/such', ['no such folder', 'finished run']),
        ('{w}/adversarial', ['no run']),
    ],
)
def test_wrong_shadows(config, workdir, tmp_path, shadow, fragments):
    given = order(workdir, tmp_path / 'out', shadow=shadow.format(w=workdir))
    with pytest.raises(InputError) as error:
        audit.main(config, given)
    for fragment in fragments:
        assert fragment in str(error.value)
    assert not (tmp_path / 'out').exists()


def test_the_command_knows_the_config_of_the_run(monkeypatch, workdir):
    asked = []
    monkeypatch.setattr(audit, 'main', lambda *arguments: asked.append(arguments))
    argv = ['main', '--mode=audit', f'--workdir={workdir}', '--output=o', '--members=train[:50%]']
    # Flags keep the values of earlier calls in this process.
    for flag in main.FLAGS:
        main.given[flag.name].unparse()
    main.run_audit(main.parse_arguments(argv))
    ((config, given, assignments),) = asked
    assert config.pipeline == 'toy' and given.members == 'train[:50%]' and assignments == []
    assert given == order(workdir, 'o', members='train[:50%]')


def test_state_is_on_one_device(net):
    state = nets.load_state(net, 'last')
    assert {leaf.devices().__len__() for leaf in jax.tree.leaves(state)} == {1}
