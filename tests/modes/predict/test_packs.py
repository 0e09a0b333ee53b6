"""Tests the packs for evaluation servers. cityscapesScripts reads the pack of real frames."""

import copy
import io
import zipfile

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from predicting import make_stage, noise, save

from segjax.data import labels
from segjax.errors import InputError
from segjax.metrics import confusion
from segjax.modes.predict import main, packs
from segjax.spec import ClassSpec

FRAMES = ('aachen_000000_000019', 'aachen_000001_000019', 'bonn_000000_000019')
SMALL = ClassSpec(('sky', 'car', 'road'), ((1, 1, 1), (2, 2, 2), (3, 3, 3)), (0, 1, 2))
"""Classes of Cityscapes in another order and with other ids."""


def cityscapes(root, frames=FRAMES, split='val'):
    """Writes the images of a small data set. Returns the folder of the split."""
    folder = root / 'leftImg8bit' / split
    for number, frame in enumerate(frames):
        city = frame.partition('_')[0]
        save(folder / city / f'{frame}_leftImg8bit.png', noise(16, 24, number))
    return folder


def predictions(folder, pack, values):
    """Writes the predictions of a pack, ids that `values` gives by name."""
    for name, source in pack.sources.items():
        save(folder / 'ids' / f'{source}.png', values(name))


def members(path):
    """Returns {name: [H, W] values} of a pack."""
    with zipfile.ZipFile(path) as archive:
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        contents = {
            name: np.frombuffer(archive.read(name), np.uint8) for name in archive.namelist()
        }
    return {name: cv2.imdecode(data, cv2.IMREAD_UNCHANGED) for name, data in contents.items()}


def test_a_run_is_packed_with_label_ids(tmp_path, toy):
    source = cityscapes(tmp_path / 'data')

    def predict(state, image):
        return jax.nn.one_hot(image[..., 0] % 3, 3)

    run = toy(make_stage(predict=predict), classes=SMALL)
    run.config.data.root = str(tmp_path / 'data')
    arguments = (run.config, str(run.workdir), str(source), str(tmp_path / 'out'), 'last', '')
    main(*arguments, 'cityscapes:val')
    packed = members(tmp_path / 'out/cityscapes_val.zip')
    assert list(packed) == [f'{frame}_leftImg8bit.png' for frame in FRAMES]
    for number, values in enumerate(packed.values()):
        # sky, car and road are 23, 26 and 7 in label files.
        expected = np.array([23, 26, 7])[noise(16, 24, number)[..., 0] % 3]
        np.testing.assert_array_equal(values, expected)
    before = (tmp_path / 'out/cityscapes_val.zip').read_bytes()
    main(*arguments, 'cityscapes:val')
    assert (tmp_path / 'out/cityscapes_val.zip').read_bytes() == before


@pytest.mark.parametrize(
    'name, folder, classes, expected',
    [
        ('ade20k:val', 'images/validation', labels.ADE20K, {1, 150}),
        ('bdd100k', 'images/10k/test', labels.CITYSCAPES, {0, 18}),
        ('bdd100k:val', 'seg/images/val', labels.CITYSCAPES, {0, 18}),
    ],
)
def test_ids_of_servers(tmp_path, name, folder, classes, expected):
    source = tmp_path / 'data' / folder
    save(source / 'b1.jpg', noise(5, 7))
    save(source / 'b2.jpg', noise(9, 4))
    pack = packs.open_pack(name, str(tmp_path / 'data'), source)
    sizes = {'b1': (5, 7), 'b2': (9, 4)}
    first, last = classes.ids[0], classes.ids[-1]

    def values(name):
        ids = np.full(sizes[name], first, np.uint8)
        ids[0] = last
        return ids

    predictions(tmp_path / 'out', pack, values)
    packed = members(packs.write(pack, tmp_path / 'out', classes))
    assert {key: value.shape for key, value in packed.items()} == {
        'b1.png': (5, 7),
        'b2.png': (9, 4),
    }
    assert set(np.unique(packed['b1.png'])) == expected


def test_the_images_may_lie_elsewhere(tmp_path):
    cityscapes(tmp_path / 'data')
    copied = tmp_path / 'copied'
    for number, frame in enumerate(FRAMES):
        save(copied / f'{frame}_leftImg8bit.png', noise(16, 24, number))
    pack = packs.open_pack('cityscapes:val', str(tmp_path / 'data'), copied)
    assert pack.sources[f'{FRAMES[0]}_leftImg8bit'] == f'{FRAMES[0]}_leftImg8bit'
    assert set(pack.images) == set(pack.sources)


def test_a_small_split_is_told(tmp_path, capsys):
    source = cityscapes(tmp_path)
    packs.open_pack('cityscapes:val', str(tmp_path), source)
    assert '3 images, while the published split val has 500' in capsys.readouterr().out


# --- the official evaluation ----------------------------------------------------------------------


def test_cityscapes_scripts_read_a_pack_of_real_frames(tmp_path, real_data, capsys):
    official = pytest.importorskip(
        'cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling', reason='the official scores'
    )
    root = real_data / 'cityscapes_mini'
    if not root.is_dir():
        pytest.skip('needs cityscapes_mini')
    source = tmp_path / 'images'
    frames = sorted((root / 'leftImg8bit/train').rglob('*.png'))
    pack = packs.open_pack('cityscapes:train', str(root), root / 'leftImg8bit/train')
    pack = pack._replace(images=dict(list(pack.images.items())[:2]))
    assert len(frames) == 8 and source != root

    # Predictions are the truth, shifted, and road where the truth is void.
    truth_files = {}
    confusions = 0
    table = labels.CITYSCAPES_LABEL_IDS.train_ids
    for name in pack.images:
        (truth_file,) = (root / 'gtFine').rglob(name.replace('leftImg8bit', 'gtFine_labelIds.png'))
        truth_files[name] = truth_file
        truth = table[cv2.imread(str(truth_file), cv2.IMREAD_UNCHANGED)].astype(np.int32)
        predicted = np.roll(np.where(truth == 255, 0, truth), (9, 21), (0, 1))
        ids = np.array(labels.CITYSCAPES.ids, np.uint8)[predicted]
        save(tmp_path / 'out/ids' / f'{pack.sources[name]}.png', ids)
        one = np.ones(1, np.float32)
        confusions += np.asarray(confusion.confusion(predicted[None], truth[None], 19, one).sum)
    scores = confusion.scores(confusions, labels.CITYSCAPES.names, 'cityscapes')

    # The scripts find the files of a pack by the names of the frames.
    path = packs.write(pack, tmp_path / 'out', labels.CITYSCAPES)
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        archive.extractall(tmp_path / 'unpacked')
    settings = copy.copy(official.args)
    settings.predictionPath, settings.predictionWalk = str(tmp_path / 'unpacked'), None
    settings.quiet, settings.JSONOutput, settings.evalInstLevelScore = True, False, False
    truths = [str(file) for file in truth_files.values()]
    found = [official.getPrediction(settings, truth) for truth in truths]
    result = official.evaluateImgLists(found, truths, settings)
    assert 0.1 < scores['mIoU'] < 0.99
    assert result['averageScoreClasses'] == pytest.approx(scores['mIoU'], rel=1e-12)


# --- wrong input ----------------------------------------------------------------------------------


def refused(error):
    return error.value.where, error.value.got


@pytest.mark.parametrize('pack, where', [('cityscape', '--pack'), ('ade20k:dev', '--pack ade20k')])
def test_unknown_names(tmp_path, pack, where):
    with pytest.raises(InputError) as error:
        packs.open_pack(pack, str(tmp_path), tmp_path)
    assert error.value.where.startswith(where)


def test_missing_and_surplus_images(tmp_path):
    source = cityscapes(tmp_path / 'data')
    fewer = cityscapes(tmp_path / 'fewer', FRAMES[:1])
    more = cityscapes(tmp_path / 'more', (*FRAMES, 'ulm_000000_000019'))
    with pytest.raises(InputError) as error:
        packs.open_pack('cityscapes:val', str(tmp_path / 'data'), fewer)
    assert error.value.got == f'1 images, without {FRAMES[1]}_leftImg8bit, {FRAMES[2]}_leftImg8bit'
    assert error.value.fix == f'--input {source}'
    with pytest.raises(InputError, match='with surplus images: ulm_000000_000019_leftImg8bit'):
        packs.open_pack('cityscapes:val', str(tmp_path / 'data'), more)


def test_a_data_set_without_the_split(tmp_path):
    source = cityscapes(tmp_path / 'data')
    with pytest.raises(InputError) as error:
        packs.open_pack('cityscapes', str(tmp_path / 'data'), source)
    assert error.value.where == 'config.data.root' and 'leftImg8bit/test' in error.value.expected


def test_names_of_other_images(tmp_path):
    save(tmp_path / 'data/leftImg8bit/val/a.png', noise(16, 24))
    with pytest.raises(InputError, match='another file name'):
        packs.open_pack('cityscapes:val', str(tmp_path / 'data'), tmp_path / 'data')


def test_classes_of_another_data_set(tmp_path, toy):
    source = cityscapes(tmp_path / 'data')
    classes = ClassSpec(('road', 'zebra'), ((0, 0, 0), (1, 1, 1)), (0, 1))
    run = toy(make_stage(predict=lambda state, image: jnp.zeros((1,))), classes=classes)
    run.config.data.root = str(tmp_path / 'data')
    out = tmp_path / 'out'
    with pytest.raises(InputError, match='zebra'):
        main(run.config, str(run.workdir), str(source), str(out), 'last', '', 'cityscapes:val')
    assert not out.exists(), 'nothing was predicted'


@pytest.mark.parametrize(
    'values, fragment',
    [
        (lambda name: np.zeros((8, 24), np.uint8), r'uint8 \[8, 24\]'),
        (lambda name: np.full((16, 24), 99, np.uint8), 'id 99, in 384 pixels'),
        (None, 'no such file'),
    ],
    ids=['size', 'id', 'absent'],
)
def test_a_wrong_prediction_gives_no_pack(tmp_path, values, fragment):
    pack = packs.open_pack('cityscapes:val', str(tmp_path), cityscapes(tmp_path))
    if values is not None:
        predictions(tmp_path / 'out', pack, values)
    with pytest.raises(InputError, match=fragment):
        packs.write(pack, tmp_path / 'out', SMALL)
    assert not list(tmp_path.rglob('*.zip'))


def test_a_declared_prediction_has_no_pack():
    packs.check_method(True, 'toy')
    with pytest.raises(InputError, match='--pack'):
        packs.check_method(False, 'toy')
