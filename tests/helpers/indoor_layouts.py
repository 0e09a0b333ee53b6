"""Tiny RGB-D data sets on disk in the layouts of NYUDv2, SUN3D and ScanNet."""

import layouts
import numpy as np
import pytest

from segjax import data
from segjax.data.builders import nyu_frames
from segjax.errors import InputError

NYU_SIZE = nyu_frames.FULL_SIZE
KINECT = '518.85 0 320\n0 518.85 240\n0 0 1\n'


def rgbd_config(name, root, cache, **rgbd):
    """`config.data` with the keys of RGB-D data sets."""
    keys = dict(depth_scale=0.0, interval=3, steps=50) | rgbd
    return layouts.data_config(name, root, cache, rgbd=keys)


def metres(rng, size):
    """Depth between 1 and 4 metres, in blocks."""
    return rng.uniform(1, 4, (size[0] // 5, size[1] // 5)).repeat(5, 0).repeat(5, 1)


def photo(rng, size):
    """A photograph in blocks, which encodes fast."""
    small = rng.integers(0, 256, (size[0] // 5, size[1] // 5, 3))
    return small.repeat(5, 0).repeat(5, 1).astype(np.uint8)


def ids_in_blocks(rng, ids, size, dtype=np.uint8):
    small = rng.choice(ids, (size[0] // 5, size[1] // 5))
    return small.repeat(5, 0).repeat(5, 1).astype(dtype)


def write_frame(folder, name, rng, size, scale=1000, label=None, folders=('image', 'depth')):
    """Writes the image and depth of a frame, and a label (folder, map). Returns (image, units)."""
    image = layouts.save(folder / folders[0] / f'{name}.png', photo(rng, size))
    units = np.round(metres(rng, size) * scale).astype(np.uint16)
    units[:5, :5] = 0
    layouts.save(folder / folders[1] / f'{name}.png', units)
    if label is not None:
        layouts.save(folder / label[0] / f'{name}.png', label[1])
    return image, units


def write_stills(folder, names, kind='40', size=NYU_SIZE, folders=('image', 'depth')):
    """{name: (image, units, label)}: stills of NYUDv2 in millimetres."""
    rng = np.random.default_rng(0)
    written = {}
    for name in names:
        dtype = np.uint16 if kind == '894' else np.uint8
        label = ids_in_blocks(rng, range(int(kind) + 1), size, dtype)
        image, units = write_frame(
            folder, name, rng, size, label=(f'label{kind}', label), folders=folders
        )
        written[name] = image, units, label
    return written


def write_video(folder, numbers, targets, scale=6553.5, size=None, kind='13'):
    """{number: (image, units, label or None)}: a video of NYUDv2 with some labelled frames.

    By default, frames have the size of the crop.
    """
    size = nyu_frames.SIZE if size is None else size
    rng = np.random.default_rng(1)
    written = {}
    for number in numbers:
        label = None
        if number in targets:
            label = ids_in_blocks(rng, range(int(kind) + 1), size)
        pair = None if label is None else (f'label{kind}', label)
        image, units = write_frame(folder, f'{number:05}', rng, size, scale, pair)
        written[number] = image, units, label
    return written


def write_sun3d(folder, frames, targets, size=(40, 60), rotated=True, lag=9000):
    """{frame: (image, millimetres, label or None)}: a sequence of SUN3D, 30 frames a second."""
    rng = np.random.default_rng(2)
    written = {}
    for frame in range(1, frames + 1):
        time = frame * 33369
        image = layouts.save(folder / 'image' / f'{frame:07}-{time:012}.jpg', photo(rng, size))
        units = np.round(metres(rng, size) * 1000).astype(np.uint16)
        stored = (units << 3) | (units >> 13) if rotated else units
        # Depth has numbers and times of its own.
        layouts.save(folder / 'depth' / f'{frame + 4:07}-{time + lag:012}.png', stored)
        label = None
        if frame in targets:
            label = ids_in_blocks(rng, range(41), size)
            layouts.save(folder / 'label40' / f'{frame:07}-{time:012}.png', label)
        written[frame] = image, units, label
    (folder / 'intrinsics.txt').write_text('51.8 0 30.5\n0 51.9 20.5\n0 0 1\n')
    return written


def write_scannet(root, scenes, frames=2, color_size=(80, 110), depth_size=(40, 55)):
    """{scene/frame: (image, units, label, instance)}: `scannet_frames_25k` with its lists."""
    rng = np.random.default_rng(3)
    written = {}
    for split, names in scenes.items():
        (root.parent / f'scannetv2_{split}.txt').write_text('\n'.join(names) + '\n')
        for scene in names:
            for frame in range(frames):
                name = f'{100 * frame:06}'
                folder = root / scene
                image = layouts.save(folder / 'color' / f'{name}.jpg', photo(rng, color_size))
                units = np.round(metres(rng, depth_size) * 1000).astype(np.uint16)
                layouts.save(folder / 'depth' / f'{name}.png', units)
                label = rng.integers(0, 41, color_size).astype(np.uint8)
                layouts.save(folder / 'label' / f'{name}.png', label)
                instance = label.astype(np.uint16) * 1000 + 7 * (label > 0)
                layouts.save(folder / 'instance' / f'{name}.png', instance.astype(np.uint16))
                written[f'{scene}/{name}'] = image, units, label, instance
            for sensor, x, y in (('depth', 26.5, 19.5), ('color', 53.5, 39.5)):
                rows = f'50 0 {x} 0\n0 50 {y} 0\n0 0 1 0\n0 0 0 1\n'
                (root / scene / f'intrinsics_{sensor}.txt').write_text(rows)
    return written


# --- readers --------------------------------------------------------------------------------------


def examples_of(config, split='train'):
    """Returns {name: example} of a split, in order."""
    prepared = data.prepare(config)
    source = prepared.open_split(split, prepared.spec.features)
    return {example['name']: example for example in (source[i] for i in range(len(source)))}


def expect(config, where, *says):
    """Returns the error of a preparation, whose place and texts it checks."""
    with pytest.raises(InputError) as error:
        data.prepare(config)
    assert str(where) in error.value.where, error.value
    for text in says:
        assert text in str(error.value)
    return error.value
