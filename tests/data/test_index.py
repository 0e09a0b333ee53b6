"""The choice of examples of a split: video in which every tenth frame has a label."""

import contextlib
import dataclasses
import json
import os

import chex
import layouts
import numpy as np
import pytest
from PIL import Image

from segjax import config as config_lib
from segjax import data
from segjax.data import builders, index, loader, records, shards
from segjax.data.builders import base
from segjax.errors import InputError
from segjax.losses import segmentation as losses
from segjax.spec import DataSpec
from segjax.tasks import segmentation

ANNOTATED = 4


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    """Returns a config of two clips in each split, with ten frames and a single label each."""
    root = tmp_path_factory.mktemp('video')
    layouts.write_sequences(root / 'raw', ('train', 'val'), frames=10, annotated=ANNOTATED)
    return make_config('cityscapes_video', root)


def make_config(name, root, **keys):
    config = config_lib.defaults('supervised')
    height, width = layouts.SIZE
    config_lib.update(
        config,
        data=dict(
            name=name,
            root=str(root / 'raw'),
            cache=str(root / 'cache'),
            eval_size=layouts.SIZE,
            threads=1,
        ),
        augment=dict(crop=(height, width), flip=0.0),
        train=dict(batch_size=2),
        evaluate=dict(batch_size=3),
    )
    config_lib.update(config, **keys)
    return config


def train_batches(config, inputs, steps, start_step=0, process=(0, 1)):
    batches = loader.train_iterator(
        data.prepare(config.data).open_input(inputs),
        inputs,
        seed=0,
        start_step=start_step,
        process_index=process[0],
        process_count=process[1],
        data_config=config.data,
    )
    with contextlib.closing(batches):
        return [next(batches) for _ in range(steps)]


def evaluation_batches(config, inputs):
    prepared = data.prepare(config.data)
    batches = loader.eval_batches(
        prepared.open_input(inputs),
        inputs,
        process_index=0,
        process_count=1,
        data_config=config.data,
        max_size=prepared.spec.split(inputs.split).max_size,
    )
    with contextlib.closing(batches):
        return list(batches)


# --- the labelled frames of a video ---------------------------------------------------------------


def test_every_example_of_a_segmentation_batch_is_labelled(video):
    batches = train_batches(video, segmentation.train_input(video), 8)
    assert all((label != 255).any() for batch in batches for label in batch['label'])
    assert {int(i) for batch in batches for i in batch['index'] % 2} == {0, 1}


def test_evaluation_counts_the_labelled_frames_alone(video):
    batches = evaluation_batches(video, segmentation.eval_input(video))
    weight, place = (
        np.concatenate([batch[key] for batch in batches]) for key in ('weight', 'index')
    )
    assert weight.sum() == 2 and sorted(place[weight > 0]) == [0, 1]
    spec = data.prepare(video.data).spec
    infer = lambda state, image: np.zeros((*image.shape[:3], 19), np.float32)  # noqa: E731
    evaluation = segmentation.make_evaluation(video, spec, infer)
    metrics = evaluation.eval_step(None, batches[0], {})
    chex.assert_shape(metrics['image_score'].sum, (2,))
    np.testing.assert_array_equal(metrics['image_score'].count, [1, 1])


def test_the_spec_counts_labelled_examples_and_their_void_pixels(video):
    spec = data.prepare(video.data).spec
    void = {'train': 0, 'val': 0}
    for split in void:
        source = data.prepare(video.data).open_split(split, ('label', 'name'))
        labelled = [
            source[i]['label'] for i in range(20) if source[i]['name'].endswith(f'{ANNOTATED:02}')
        ]
        void[split] = sum(int(np.count_nonzero(label == 255)) for label in labelled)
    assert spec.num_examples == {'train': 20, 'val': 20}
    assert spec.num_unlabelled == {'train': 18, 'val': 18}
    assert {split: spec.split(split).labelled_void_pixels for split in void} == void
    assert [spec.split(split).num_labelled for split in ('train', 'val', 'train+val')] == [2, 2, 4]
    assert spec.split('train+val').labelled_void_pixels == sum(void.values())
    assert DataSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_class_weights_ignore_the_pixels_of_unlabelled_frames(video):
    spec = data.prepare(video.data).spec
    found = losses.class_weights(*segmentation.class_pixels(video, spec), 'enet', k=1.1)
    source = data.prepare(video.data).open_split('train', ('label', 'name'))
    labels = np.concatenate(
        [source[i]['label'] for i in range(20) if (source[i]['label'] != 255).any()]
    )
    shares = np.array([(labels == c).mean() for c in range(19)])
    np.testing.assert_allclose(found, 1 / np.log(1.1 + shares), rtol=1e-6)


def test_neighbours_of_labelled_frames_need_no_label(video):
    inputs = segmentation.train_input(video)
    inputs = inputs._replace(features=('image', 'label', 'image_frames'), frames=(-1, 1))
    source = data.prepare(video.data).open_input(inputs, 'frame')
    plain = data.prepare(video.data).open_split('train', ('image',))
    assert [source[i]['frame'] for i in range(len(source))] == [ANNOTATED, 100 + ANNOTATED]
    np.testing.assert_array_equal(source[1]['image_frames'][0], plain[10 + ANNOTATED - 1]['image'])
    everything = data.prepare(video.data).open_input(inputs._replace(examples='all'))
    assert len(everything) == 2 * 8


def test_a_share_is_one_of_the_labelled_examples(video):
    config = video.copy_and_resolve_references()
    config.data.train_split, config.data.labelled_fraction = 'train+val', 0.5
    inputs = segmentation.train_input(config)
    assert {int(i) % 2 for batch in train_batches(config, inputs, 4) for i in batch['index']} == {
        0,
        1,
    }
    names = data.prepare(config.data).open_input(inputs, 'name')
    assert [names[i]['name'] for i in range(len(names))] == [
        f'{city}_000003_{first + ANNOTATED:06}' for city in ('ulm', 'bonn') for first in (0, 100)
    ]


def test_processes_and_resumed_runs_replay_the_order(video):
    config = video.copy_and_resolve_references()
    config.data.train_split = 'train+val'
    inputs = segmentation.train_input(config)
    whole = train_batches(config, inputs, 6)
    resumed = train_batches(config, inputs, 2, start_step=4)
    halves = [train_batches(config, inputs, 6, process=(i, 2)) for i in range(2)]
    for key in whole[0]:
        for one, other in zip(whole[4:], resumed, strict=True):
            np.testing.assert_array_equal(one[key], other[key])
        for step, batch in enumerate(whole):
            np.testing.assert_array_equal(
                batch[key], np.concatenate([half[step][key] for half in halves])
            )


# --- the digest of the content --------------------------------------------------------------------


def digest_of(folder, **keys):
    """Prepares the Cityscapes in `folder / 'raw'` into a cache of its own."""
    cache = folder / f'cache_{len(list(folder.iterdir()))}'
    return data.prepare(
        layouts.data_config('cityscapes', folder / 'raw', cache, **keys)
    ).spec.digest


@pytest.fixture
def cityscapes(tmp_path):
    layouts.write_cityscapes(tmp_path / 'raw')
    return tmp_path


def test_the_digest_depends_on_no_name_time_shard_or_thread(tmp_path, monkeypatch):
    _, classes = layouts.write_folder(tmp_path / 'raw')
    config = layouts.data_config('folder', tmp_path / 'raw', tmp_path / 'cache', classes=classes)
    first = data.prepare(config).spec
    assert set(first.digest) == {'train', 'val'} and len({*first.digest.values()}) == 2
    monkeypatch.setattr(shards, 'SHARD_BYTES', 1)
    monkeypatch.setattr(base.host, 'cores', lambda: 7)
    for path in sorted((tmp_path / 'raw').rglob('*.*g')):
        os.utime(path.rename(path.with_name(f'x{path.name}')), ns=(1, 1))
    renamed = data.prepare(config)
    assert renamed.open_split('train', ('name',))[0]['name'].startswith('x')
    assert renamed.spec == first


@pytest.mark.parametrize('kind', ['leftImg8bit', 'labelIds', 'instanceIds'])
def test_a_changed_pixel_changes_the_digest_of_its_split(cityscapes, kind):
    first = digest_of(cityscapes)
    path = next(path for path in (cityscapes / 'raw').rglob(f'*{kind}.png') if 'val' in path.parts)
    pixels = np.array(Image.open(path))
    if kind == 'instanceIds':
        pixels.flat[pixels.argmax()] += 1  # another instance of the same class
    else:
        pixels[0, 0] = 7 if kind != 'labelIds' or pixels[0, 0] != 7 else 8
    layouts.save(path, pixels)
    changed = digest_of(cityscapes)
    assert changed['train'] == first['train'] and changed['val'] != first['val']


def test_another_compression_of_a_label_is_the_same_content(cityscapes):
    first = digest_of(cityscapes)
    for path in (cityscapes / 'raw').rglob('*labelIds.png'):
        layouts.save(path, np.array(Image.open(path)), compress_level=0)
    assert digest_of(cityscapes) == first


def test_another_order_is_another_digest(stills, tmp_path):
    first = data.prepare(stills.data).spec.digest
    for path in sorted((tmp_path / 'raw').rglob('*_00000.png')):
        path.rename(path.with_name(path.name.replace('_00000', '_00099')))
    changed = data.prepare(stills.data).spec.digest
    assert changed['train'] != first['train'] and changed['val'] == first['val']


def test_a_spec_from_before_the_digest_can_be_read(stills):
    spec = data.prepare(stills.data).spec
    stored = json.loads(json.dumps(spec.to_json()))
    assert DataSpec.from_json(stored) == spec and len(spec.digest) == 2
    del stored['digest']
    assert DataSpec.from_json(stored) == dataclasses.replace(spec, digest={})


def test_an_index_from_before_the_digest_can_be_read(stills):
    folder, spec = records_of(stills), data.prepare(stills.data).spec
    with np.load(folder / index.FILE) as arrays:
        kept = {name: values for name, values in arrays.items() if not name.endswith('/digest')}
    np.savez_compressed(folder / index.FILE, **kept)
    index.of_split.cache_clear()
    assert data.prepare(stills.data).spec == dataclasses.replace(spec, digest={})
    chex.assert_shape(index.load(folder, 'train+val').digest, (8, 0))


# --- data sets of which every example is labelled -------------------------------------------------


@pytest.fixture
def stills(tmp_path):
    layouts.write_camvid(tmp_path / 'raw')
    return make_config('camvid', tmp_path)


def test_where_all_are_labelled_nothing_changes(stills):
    spec = data.prepare(stills.data).spec
    assert not spec.num_unlabelled and not spec.unlabelled_pixels
    of_train = spec.split('train')
    assert of_train.num_labelled == 5 and of_train.labelled_void_pixels == of_train.void_pixels
    for make in (segmentation.train_input, segmentation.eval_input):
        inputs = make(stills)
        assert inputs.examples == 'labelled'
        source = data.prepare(stills.data).open_input(inputs)
        assert (
            isinstance(source, records.SplitSource)
            and len(source) == spec.num_examples[inputs.split]
        )
    of_all = train_batches(stills, segmentation.train_input(stills)._replace(examples='all'), 5)
    for one, other in zip(
        of_all, train_batches(stills, segmentation.train_input(stills), 5), strict=True
    ):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


# --- the index of the records ---------------------------------------------------------------------

SPLITS = ('train', 'val', 'train+val', 'train[3:15]', 'train[25%:75%]', 'val[-7:]+train[:5]')


@pytest.mark.parametrize('split', SPLITS)
def test_the_index_is_that_of_the_examples(video, split):
    folder = records_of(video)
    found = index.load(folder, split)
    source = data.prepare(video.data).open_split(split, ('label', 'sequence', 'frame'))
    examples = [source[i] for i in range(len(source))]
    np.testing.assert_array_equal(
        found.labelled_pixels, [np.count_nonzero(e['label'] != 255) for e in examples]
    )
    np.testing.assert_array_equal(
        found.void_pixels, [np.count_nonzero(e['label'] == 255) for e in examples]
    )
    assert list(found.sequence) == [e['sequence'] for e in examples]
    assert list(found.frame) == [e['frame'] for e in examples]


def records_of(config):
    return records.prepared(builders.load(config.data), config.data.cache)


def test_older_records_get_their_index_once(stills, capsys):
    folder = records_of(stills)
    expected, spec = index.load(folder, 'train+val'), data.prepare(stills.data).spec
    os.remove(folder / index.FILE)
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert data.prepare(stills.data).spec == spec
    assert data.prepare(stills.data).spec == spec
    assert capsys.readouterr().out.count('have no index') == 1
    assert {path: path.stat().st_mtime_ns for path in written} == written
    for one, other in zip(index.load(folder, 'train+val'), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_split_without_labels_is_refused(tmp_path):
    layouts.write_sequences(tmp_path / 'raw', ('train', 'val'), frames=3, annotated=1)
    for path in (tmp_path / 'raw/gtFine/val').rglob('*.png'):
        path.unlink()
    config = make_config('cityscapes_video', tmp_path)
    with pytest.raises(InputError, match=r"split 'val'.*\n.*no labelled example among its 6"):
        data.prepare(config.data).open_input(segmentation.eval_input(config))


def test_an_unknown_choice_of_examples_is_refused(stills):
    inputs = segmentation.train_input(stills)._replace(examples='labeled')
    with pytest.raises(InputError, match="'labelled'"):
        data.prepare(stills.data).open_input(inputs)
