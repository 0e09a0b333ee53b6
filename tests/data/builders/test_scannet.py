"""ScanNet's exported frames: a size for all maps, lists of scenes, and problems of its files."""

import pathlib

import indoor_layouts as indoor
import layouts
import numpy as np
import pytest
from PIL import Image

from segjax import data
from segjax.data import builders, labels
from segjax.data.builders import nyu_frames, scannet
from segjax.spec import IGNORE

SCENES = {'train': ['scene0000_00', 'scene0001_00'], 'val': ['scene0002_00']}


@pytest.fixture
def frames(tmp_path):
    """Returns folder, config and content of three scenes."""
    root = tmp_path / 'scannet_frames_25k'
    written = indoor.write_scannet(root, SCENES)
    return root, indoor.rgbd_config('scannet', root, tmp_path / 'cache'), written


def test_all_maps_have_the_size_of_the_depth(frames):
    _, config, written = frames
    spec = data.prepare(config).spec
    assert spec.num_examples == {'train': 4, 'val': 2} and spec.classes == labels.NYU40
    assert set(spec.class_maps) == {'20', '13', '4'}
    assert spec.features == (
        'image',
        'label',
        'instance',
        'depth',
        'intrinsics',
        'sequence',
        'frame',
        'name',
    )
    for split, scenes in SCENES.items():
        examples = indoor.examples_of(config, split)
        assert list(examples) == [f'{scene}/{frame:06}' for scene in scenes for frame in (0, 100)]
        for name, example in examples.items():
            _, units, label, instance = written[name]
            scene, _, frame = name.partition('/')
            assert (example['sequence'], example['frame']) == (scene, int(frame))
            np.testing.assert_allclose(example['depth'], units / 1000, rtol=1e-6)
            assert example['image'].shape == (40, 55, 3)
            # Half the size: of four pixels, nearest neighbour keeps the last.
            small = label[1::2, 1::2]
            expected = np.where(small == 0, IGNORE, small - 1)
            np.testing.assert_array_equal(example['label'], expected)
            np.testing.assert_array_equal(example['instance'], instance[1::2, 1::2])
            matrix = [[50, 0, 26.5], [0, 50, 19.5], [0, 0, 1]]
            np.testing.assert_allclose(example['intrinsics'], matrix)


def test_images_are_averaged(frames):
    root, config, _ = frames
    path = root / 'scene0002_00/color/000000.jpg'
    image = np.asarray(Image.open(path)).astype(float)
    means = image.reshape(40, 2, 55, 2, 3).mean(axis=(1, 3))
    example = indoor.examples_of(config, 'val')['scene0002_00/000000']
    assert np.abs(example['image'] - means).max() <= 1


def test_frames_without_depth_keep_the_size_of_their_images(tmp_path):
    root = tmp_path / 'frames'
    written = indoor.write_scannet(root, {'val': ['scene0002_00']}, depth_size=(80, 110))
    for path in (root / 'scene0002_00/depth').iterdir():
        path.unlink()
    (root / 'scene0002_00/depth').rmdir()
    config = indoor.rgbd_config('scannet', root, tmp_path / 'cache')
    spec = data.prepare(config).spec
    assert 'depth' not in spec.features and spec.max_size == {'val': (80, 110)}
    for name, example in indoor.examples_of(config, 'val').items():
        label = written[name][2]
        np.testing.assert_array_equal(example['label'], np.where(label == 0, IGNORE, label - 1))
        assert example['intrinsics'][0, 2] == 53.5


def test_the_20_classes_of_the_benchmark(frames):
    _, config, written = frames
    config.class_map = '20'
    spec = data.prepare(config).spec
    assert spec.classes.names[:3] == ('wall', 'floor', 'cabinet')
    assert spec.classes.names[-2:] == ('bathtub', 'otherfurniture')
    small = np.concatenate([w[2][1::2, 1::2] for n, w in written.items() if 'scene0002' in n])
    pixels = tuple((small == number).sum() for number in scannet.BENCHMARK_IDS)
    assert spec.class_pixels['val'] == pixels
    assert spec.void_pixels['val'] == small.size - sum(pixels)


def test_all_problems_of_files_at_once(frames):
    root, config, _ = frames
    scene = root / 'scene0000_00'
    (scene / 'label/000000.png').unlink()
    (scene / 'depth/000100.png').unlink()
    other = root / 'scene0001_00'
    layouts.save(other / 'label/000000.png', np.full((80, 110), 41, np.uint8))
    layouts.save(other / 'depth/000100.png', np.full((40, 40), 2000, np.uint16))
    dataset = builders.load(config)
    items, problems = dataset.scan('train')
    problems += [problem for item in items for problem in dataset.inspect(item).problems]
    texts = {problem.where.removeprefix(f'{root}/'): str(problem) for problem in problems}
    says = {
        'scene0000_00/color/000000.jpg': 'an image without a label',
        'scene0000_00/color/000100.jpg': 'no depth for this frame',
        'scene0001_00/label/000000.png': 'label ids 41',
        'scene0001_00/depth/000100.png': 'the aspect ratio of 110x80 pixels',
    }
    files = {where: text for where, text in texts.items() if where in says}
    assert files.keys() == says.keys() == texts.keys()
    assert all(says[where] in text for where, text in files.items())


def test_lists_of_scenes(frames):
    root, config, _ = frames
    path = root.parent / 'scannetv2_train.txt'
    path.write_text('scene0000_00\nscene0707_00\n')
    indoor.expect(config, path, '1 of 2 scenes are not there, the first is scene0707_00')
    path.write_text('scene0000_00\n')
    assert data.prepare(config).spec.num_examples == {'train': 2, 'val': 2}
    # A list in the folder itself wins.
    (root / 'scannetv2_train.txt').write_text('scene0001_00\n')
    assert list(indoor.examples_of(config, 'train')) == [
        'scene0001_00/000000',
        'scene0001_00/000100',
    ]
    for place in (root, root.parent):
        for split in ('train', 'val'):
            (place / f'scannetv2_{split}.txt').unlink(missing_ok=True)
    indoor.expect(config, root, 'no lists of scenes', 'Tasks/Benchmark')


def test_names_that_are_no_numbers(frames):
    root, config, _ = frames
    path = root / 'scene0002_00/color/000100.jpg'
    path.rename(path.with_name('frame-000100.color.jpg'))
    indoor.expect(config, 'frame-000100.color.jpg', 'the number of the frame, as 000100.jpg')


def test_the_page_of_the_data_sets_names_their_class_maps():
    page = (pathlib.Path(__file__).parents[3] / 'docs/data.md').read_text()
    offered = {
        'nyu_depth': nyu_frames.CLASS_MAPS,
        'sun3d': ('33', '13', '4'),
        'scannet': ('20', '13', '4'),
    }
    for name, maps in offered.items():
        row = next(line for line in page.splitlines() if f'| `{name}` |' in line)
        assert ', '.join(f'`{key}`' for key in maps) in row and name in builders.REGISTRY
