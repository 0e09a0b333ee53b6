"""Tiny data sets on disk in the layouts of the real ones.

They are written with Pillow, because the package reads PNG with OpenCV.
"""

import json
import pathlib

import ml_collections
import numpy as np
from PIL import Image

from segjax.data.labels import CITYSCAPES

SIZE = (24, 32)


def data_config(name, root, cache, **keys):
    """`config.data`, as far as data sets read it."""
    world = dict(num_train=3, num_val=2, size=(16, 24), seed=0)
    values = dict(name=name, root=str(root), cache=str(cache), classes='', world=world)
    values |= dict(class_map='', lists=())
    return ml_collections.ConfigDict(values | keys)


def save(path: pathlib.Path, array: np.ndarray, **options) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return array


def blocks(rng, ids, size=SIZE, dtype=np.uint8):
    """[H, W] in blocks of 4x4 pixels, each with one of `ids`."""
    return rng.choice(ids, (size[0] // 4, size[1] // 4)).repeat(4, 0).repeat(4, 1).astype(dtype)


def photo(rng, size=SIZE):
    return rng.integers(0, 256, (*size, 3)).astype(np.uint8)


def write_camvid(root, counts=(('train', 5), ('val', 3))):
    """{(split, name): (image, label)}"""
    rng = np.random.default_rng(0)
    written = {}
    for split, count in counts:
        for i in range(count):
            name = f'0016E5_{10 * i + (0 if split == "train" else 5000):05}'
            image = save(root / split / f'{name}.png', photo(rng))
            label = save(root / f'{split}annot' / f'{name}.png', blocks(rng, range(12)))
            written[split, name] = image, label
    return written


CAMERA = {'intrinsic': {'fx': 35.0, 'fy': 36.0, 'u0': 15.5, 'v0': 12.25}, 'extrinsic': {'x': 1.7}}


def write_cityscapes(root, kind='labelIds', counts=(('train', 4), ('val', 2)), gt='gtFine'):
    """{(split, name): (image, label, instance)}; files in two cities. `gt`: of the annotations."""
    rng = np.random.default_rng(1)
    ids = range(34) if kind == 'labelIds' else [*range(19), 255]
    written = {}
    for split, count in counts:
        for i in range(count):
            city = ('aachen', 'bad_city')[i % 2]
            name = f'{city}_{i:06}_000019'
            image = save(
                root / 'leftImg8bit' / split / city / f'{name}_leftImg8bit.png', photo(rng)
            )
            label = save(root / gt / split / city / f'{name}_{gt}_{kind}.png', blocks(rng, ids))
            instance = instances_of(label, kind)
            save(root / gt / split / city / f'{name}_{gt}_instanceIds.png', instance)
            save(root / gt / split / city / f'{name}_{gt}_color.png', photo(rng))
            camera = root / 'camera' / split / city / f'{name}_camera.json'
            camera.parent.mkdir(parents=True, exist_ok=True)
            camera.write_text(json.dumps(CAMERA))
            written[split, name] = image, label, instance
    return written


def instances_of(label, kind='labelIds'):
    """Returns the ids of `instanceIds` for a label map: objects of persons, cars and bicycles.

    A large block of a class is an object with a number of its own.
    """
    ids = label.astype(int)
    if kind != 'labelIds':
        ids = np.array([*CITYSCAPES.ids, *[0] * 237])[ids]
    numbers = np.arange(ids.shape[1]) // 16
    is_object = np.isin(ids, (24, 26, 33))
    return np.where(is_object, 1000 * ids + numbers, ids).astype(np.uint16)


def write_sequences(root, splits=('train',), frames=5, annotated=2):
    """Writes the official video: two snippets in one numbering with a gap.

    A snippet has `frames` frames. The frame `annotated` is labelled.
    """
    rng = np.random.default_rng(2)
    labels = {}
    for split, first in ((split, first) for split in splits for first in (0, 100)):
        city = 'ulm' if split == 'train' else 'bonn'
        for frame in range(first, first + frames):
            name = f'{city}_000003_{frame:06}'
            save(
                root / f'leftImg8bit_sequence/{split}/{city}' / f'{name}_leftImg8bit.png',
                photo(rng),
            )
        name = f'{city}_000003_{first + annotated:06}'
        path = root / f'gtFine/{split}/{city}' / f'{name}_gtFine_labelIds.png'
        labels[name] = save(path, blocks(rng, range(34)))
        camera = root / f'camera/{split}/{city}' / f'{name}_camera.json'
        camera.parent.mkdir(parents=True, exist_ok=True)
        camera.write_text(json.dumps(CAMERA))
    return labels


def write_clips(root, clips=3, frames=4):
    """{clip/name: (label, instance)}"""
    rng = np.random.default_rng(3)
    written = {}
    for clip in range(clips):
        for frame in range(frames):
            folder, name = root / f'seq{clip:04}', f'aachen_{clip:06}_{frame:06}_leftImg8bit'
            save(folder / 'image' / f'{name}.jpg', photo(rng), quality=90)
            label = save(folder / 'label_predicted' / f'{name}.png', blocks(rng, [7, 11, 26]))
            instance = save(
                folder / 'instance_predicted' / f'{name}.png', blocks(rng, [0, 1, 30, 255])
            )
            written[f'seq{clip:04}/{name.removesuffix("_leftImg8bit")}'] = label, instance
    matrix = [[40.0, 0, 15.0], [0, 41.0, 11.0], [0, 0, 1]]
    (root / 'camera.json').write_text(json.dumps({f'intrinsics_{SIZE[1]}x{SIZE[0]}': matrix}))
    return written


def enlarge_one_frame(root):
    """Writes clips without a camera; returns the one image that has another size than its clip."""
    write_clips(root)
    (root / 'camera.json').unlink()
    paths = sorted((root / 'seq0001').glob('*/aachen_000001_000002*'))
    for path in paths:
        Image.open(path).resize((40, 32), Image.Resampling.NEAREST).save(path)
    return next(path for path in paths if path.suffix == '.jpg')


APOLLOSCAPE_SIZE = (208, 260)  # the shape of 3384x2710, as far as blocks of 4x4 allow


def write_apolloscape(
    root, records, size=APOLLOSCAPE_SIZE, folder='{road}/{kind}/{record}/Camera {camera}'
):
    """{(road, record, camera): [(name, label, instance, depth, pose), ...]}, files of every kind.

    Args:
      root: folder.
      records: {road: {record: number of frames}}.
      size: (height, width).
      folder: of a camera's files of one kind.
    """
    rng = np.random.default_rng(5)
    ids = [
        *(0, 1, 17),
        *range(33, 41),
        *(49, 50, 65, 66, 67),
        *range(81, 87),
        *range(97, 101),
        113,
        *range(161, 169),
        255,
    ]
    written = {}
    for road, of_road in records.items():
        for number, (record, frames) in enumerate(of_road.items()):
            for camera in (5, 6):

                def place(kind, road=road, record=record, camera=camera):
                    path = root / folder.format(road=road, kind=kind, record=record, camera=camera)
                    path.mkdir(parents=True, exist_ok=True)
                    return path

                clip = written[road, record, camera] = []
                for frame in range(frames):
                    name = f'170908_{60000000 + 100000 * number + 139 * frame:09}_Camera_{camera}'
                    save(place('ColorImage') / f'{name}.jpg', photo(rng, size), quality=90)
                    label = save(place('Label') / f'{name}_bin.png', blocks(rng, ids, size))
                    instance = blocks(rng, [17, 49, 33000, 33001, 36004], size, np.uint16)
                    save(place('Label') / f'{name}_instanceIds.png', instance)
                    (place('Label') / f'{name}.json').write_text('{}')
                    depth = save(
                        place('Depth') / f'{name}.png',
                        blocks(rng, [0, 1, 2000, 65535], size, np.uint16),
                    )
                    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
                    pose = np.eye(4)
                    pose[:3] = np.column_stack(
                        [turn * np.linalg.det(turn), (-12481.25 + frame, 5082.5, 37.0)]
                    )
                    clip.append((name, label, instance, depth, pose))
                lines = [
                    ' '.join(f'{x:.7f}' for x in pose.ravel()) + f' {name}.jpg'
                    for name, *_, pose in clip
                ]
                (place('Pose') / 'pose.txt').write_text('\n'.join(reversed(lines)) + '\n')
    return written


def write_folder(
    root,
    ids=(0, 1, 2),
    splits=('train', 'val'),
    count=3,
    classes='[back, car, tree]',
    instances=False,
):
    """{(split, name): (image, mask)} and the class file's path; masks are grey PNG.

    With instances, each mask is also the instance file of its image.
    """
    rng = np.random.default_rng(4)
    written = {}
    for split in splits:
        for i in range(count):
            image = save(root / 'images' / split / f'shot {i}.jpg', photo(rng), quality=95)
            mask = blocks(rng, list(ids))
            mask[0, : len(ids)] = ids  # every id in every mask
            save(root / 'masks' / split / f'shot {i}.png', mask)
            if instances:
                save(root / 'instances' / split / f'shot {i}.png', mask)
            written[split, f'shot {i}'] = image, mask
    (root / 'classes.yaml').write_text(classes)
    return written, str(root / 'classes.yaml')


RGBD_CLIPS = {'train/kitchen': (range(101, 108), (103, 106)), 'val/hall': (range(7), (3,))}
"""{clip: (numbers of its frames, numbers of its labelled frames)}."""


def write_rgbd_folder(root, clips=RGBD_CLIPS, size=SIZE, ids=(0, 1, 2), names='[wall, floor, box]'):
    """Writes RGB-D clips in millimetres: {(clip, number): (image, units, label)}, and a class file.

    The label of a frame without a label file is None. All clips have the same camera.
    """
    rng = np.random.default_rng(9)
    written = {}
    for clip, (numbers, targets) in clips.items():
        for number in numbers:
            image = save(root / clip / 'image' / f'{number:06}.png', blocks_of_colour(rng, size))
            units = blocks(rng, range(1000, 4000), size, np.uint16)
            units[0, 0] = 0
            save(root / clip / 'depth' / f'{number:06}.png', units)
            label = None
            if number in targets:
                label = save(root / clip / 'label' / f'{number:06}.png', blocks(rng, ids, size))
            written[clip, number] = image, units, label
    height, width = size
    (root / 'intrinsics.txt').write_text(f'{width} 0 {width / 2}\n0 {width} {height / 2}\n0 0 1\n')
    (root / 'classes.yaml').write_text(names)
    return written, str(root / 'classes.yaml')


def blocks_of_colour(rng, size):
    """Returns a photograph in blocks of 4x4 pixels."""
    channels = [blocks(rng, range(256), size) for _ in range(3)]
    return np.stack(channels, axis=-1)


def write_ade20k(root, counts=(('training', 4), ('validation', 2))):
    """Writes SceneParse150: {(folder, name): (image, label)}. A label has the ids 0..150."""
    rng = np.random.default_rng(6)
    written = {}
    for folder, count in counts:
        for i in range(count):
            name = f'ADE_{folder.removesuffix("ing").removesuffix("ation")}_{i + 1:08}'
            image = save(root / 'images' / folder / f'{name}.jpg', photo(rng), quality=95)
            label = save(root / 'annotations' / folder / f'{name}.png', blocks(rng, range(151)))
            written[folder, name] = image, label
    return written


def write_synscapes(root, numbers=(1, 2, 10, 24000, 24001, 25000), images=True):
    """Writes scenes of Synscapes: {name: (image, label)}, and files that are not read."""
    rng = np.random.default_rng(9)
    written = {}
    for number in numbers:
        image = photo(rng)
        label = save(root / f'img/class/{number}.png', blocks(rng, [*range(34), 255]))
        if images:
            save(root / f'img/rgb/{number}.png', image)
            save(root / f'img/rgb-2k/{number}.png', photo(rng, (32, 44)))
        save(root / f'img/instance/{number}.png', photo(rng))
        (root / 'meta').mkdir(exist_ok=True)
        (root / f'meta/{number}.json').write_text(json.dumps({'camera': CAMERA}))
        written[str(number)] = image, label
    return written


BEDROOM_NUMBERS = (0, 2978, 165, 480, 1, 3148)
"""Numbers in the index file of ADE20K: no class, wall, bed, chandelier, and two further classes."""


def bedroom_colors(numbers, objects):
    """Returns the RGB file of a bedroom for maps of class numbers and of object numbers."""
    red = numbers // 256 * 10
    return np.stack([red, numbers % 256, objects], axis=-1).astype(np.uint8)


def write_bedrooms(root, count=5):
    """Writes bedrooms of the full ADE20K: {name: (class numbers, object numbers)}, by name."""
    rng = np.random.default_rng(7)
    folder = root / 'images/training/b/bedroom'
    written = {}
    for i in range(count):
        name = f'ADE_train_{i + 1:08}'
        save(folder / f'{name}.jpg', photo(rng), quality=95)
        numbers = blocks(rng, BEDROOM_NUMBERS, dtype=np.int32)
        objects = blocks(rng, (0, 6, 200), dtype=np.int32)
        save(folder / f'{name}_seg.png', bedroom_colors(numbers, objects))
        save(folder / f'{name}_parts_1.png', photo(rng))
        (folder / f'{name}_atr.txt').write_text('001 # 0 # 0 # wall # wall # ""\n')
        written[name] = numbers, objects
    return written


COCO_SEGMENTS = (
    (5 + 256 * 7, 1, 0),
    (9 + 65536 * 3, 90, 0),
    (255 + 256 * 255 + 65536 * 255, 3, 1),
    (77, 200, 0),
)
"""Segments (id, category, iscrowd): a person, a toothbrush, a group of cars, and a rug."""


def write_coco_panoptic(root, counts=(('train2017', 3), ('val2017', 2)), images=True):
    """Writes panoptic segmentations: {(folder, name): map of segment ids}. Segment 0 is no segment.

    Every file has the segments `COCO_SEGMENTS`.
    """
    categories = [(1, 'person'), (3, 'car'), (90, 'toothbrush'), (200, 'rug-merged')]
    ids = [0, *(segment for segment, _, _ in COCO_SEGMENTS)]
    rng = np.random.default_rng(8)
    written = {}
    for folder, count in counts:
        content = {'images': [], 'annotations': []}
        content['categories'] = [{'id': i, 'name': name} for i, name in categories]
        for i in range(count):
            name = f'{len(folder) * 1000 + i:012}'
            pixels = blocks(rng, ids, dtype=np.int32)
            pixels[0, : len(ids)] = ids
            colors = np.stack([pixels % 256, pixels // 256 % 256, pixels // 65536], axis=-1)
            save(root / f'annotations/panoptic_{folder}/{name}.png', colors.astype(np.uint8))
            if images:
                save(root / folder / f'{name}.jpg', photo(rng), quality=95)
            size = {'height': SIZE[0], 'width': SIZE[1]}
            content['images'].append({'id': i, 'file_name': f'{name}.jpg', **size})
            segments = [
                {'id': number, 'category_id': category, 'iscrowd': crowd, 'bbox': [0, 0, 1, 1]}
                for number, category, crowd in COCO_SEGMENTS
            ]
            entry = {'image_id': i, 'file_name': f'{name}.png', 'segments_info': segments}
            content['annotations'].append(entry)
            written[folder, name] = pixels
        (root / f'annotations/panoptic_{folder}.json').write_text(json.dumps(content))
    return written


def write_bdd100k(root, older=False, counts=(('train', 4), ('val', 2))):
    """Writes BDD100K's semantic segmentation: {(split, name): (image, label)}, train ids and 255.

    A folder of images `test` has no labels.
    """
    images, labels, ending = root / 'images/10k', root / 'labels/sem_seg/masks', ''
    colors = root / 'labels/sem_seg/colormaps'
    if older:
        images, labels, ending = root / 'seg/images', root / 'seg/labels', '_train_id'
        colors = root / 'seg/color_labels'
    rng = np.random.default_rng(9)
    written = {}
    for split, count in counts:
        for i in range(count):
            name = f'{i:08x}-{len(split):08x}'
            image = save(images / split / f'{name}.jpg', photo(rng), quality=95)
            label = save(labels / split / f'{name}{ending}.png', blocks(rng, [*range(19), 255]))
            save(colors / split / f'{name}_train_color.png', photo(rng))
            written[split, name] = image, label
    save(images / 'test' / 'ffffffff-00000004.jpg', photo(rng), quality=95)
    return written


def write_vistas(root, rows, labels='labels', config='config.json', evaluate=lambda name: True):
    """Writes Mapillary Vistas: {(folder, key): (image, ids)}. Images have two sizes.

    Args:
      root: folder.
      rows: (name, id, colour) of the labels. A file has every id.
      labels: folder of the labels in the folder of a split.
      config: name of the config file, '' for none.
      evaluate: returns the entry `evaluate` of the config file for the name of a label.
    """
    rng = np.random.default_rng(10)
    palette = [value for _, _, color in rows for value in color]
    written = {}
    for folder, count in (('training', 3), ('validation', 2)):
        for i in range(count):
            key = f'{"-_aB"[i]}{len(folder):021}'
            size = (24, 32) if i else (32, 40)
            image = save(root / folder / 'images' / f'{key}.jpg', photo(rng, size), quality=95)
            ids = blocks(rng, range(len(rows)), size)
            ids.ravel()[: len(rows)] = range(len(rows))
            indexed = Image.fromarray(ids)
            indexed.putpalette(palette)
            path = root / folder / labels / f'{key}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            indexed.save(path)
            written[folder, key] = image, ids
    save(root / 'testing/images' / f'{"c" * 22}.jpg', photo(rng), quality=95)
    if config:
        entries = []
        for name, _, color in rows:
            entry = {'color': color, 'instances': True, 'readable': name, 'name': f'x--{name}'}
            entries.append(entry | {'evaluate': evaluate(name)})
        (root / config).write_text(json.dumps({'labels': entries, 'version': 1.1}))
    return written
