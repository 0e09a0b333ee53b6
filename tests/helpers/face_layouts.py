"""Tiny folders of faces and heads without labels, in the layouts of the real data sets."""

import layouts
import numpy as np
from PIL import Image

SIZE = (40, 32)


def face(rng, size=SIZE):
    """Returns an image, and 68 landmarks that are whole pixels inside of it."""
    image = layouts.photo(rng, size)
    points = rng.integers([4, 6], [size[1] - 4, size[0] - 6], (68, 2)).astype(np.float32)
    return image, points


def save_jpeg(path, image):
    """Writes a JPEG of the best quality, and returns its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=100, subsampling=0)
    return np.asarray(Image.open(path))


def write_npz(path, points, form='arrays'):
    """Writes landmarks by name as one array for each name, or as names and points."""
    if form == 'arrays':
        np.savez(path, **points)
    else:
        np.savez(path, names=list(points), points=np.stack(list(points.values())))


def write_csv(path, values):
    """Writes numbers by name. NaN is an empty cell."""
    lines = ['name,numbers']
    for name, value in values.items():
        cells = ['' if np.isnan(number) else repr(float(number)) for number in value.ravel()]
        lines.append(','.join([name, *cells]))
    path.write_text('\n'.join(lines) + '\n')


def write_pts(path, points):
    """Writes the format of 300-W, whose coordinates start at 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = '\n'.join(f'{x + 1:.6f} {y + 1:.6f}' for x, y in points)
    path.write_text(f'version: 1\nn_points:  {len(points)}\n{{\n{rows}\n}}\n')


def write_faces(root, form='arrays', counts=(('train', 4), ('val', 2))):
    """Writes folders of splits. Returns {(split, name): (image, landmarks)}."""
    rng = np.random.default_rng(0)
    written = {}
    for split, count in counts:
        points = {}
        for number in range(count):
            name = f'{split[0]}{number:02}'
            image, points[name] = face(rng)
            image = layouts.save(root / split / 'image' / f'{name}.png', image)
            written[split, name] = image, points[name]
            if form == 'pts':
                write_pts(root / split / 'image' / f'{name}.pts', points[name])
        if form == 'csv':
            write_csv(root / split / 'landmarks.csv', {f'{k}.png': v for k, v in points.items()})
        elif form != 'pts':
            write_npz(root / split / 'landmarks.npz', points, form)
    return written


PEOPLE = {'train': {'Ada_Lovelace': 2, 'Alan_Turing': 1}, 'val': {'Emmy_Noether': 2}}
LISTS = {'train': 'peopleDevTrain.txt', 'val': 'peopleDevTest.txt'}


def write_lfw(root, boxes=True):
    """Writes a folder of LFW. Returns {(split, name): (image, landmarks, box)}."""
    rng = np.random.default_rng(1)
    written = {}
    points = {}
    of_boxes = {}
    for split, people in PEOPLE.items():
        lines = [str(len(people))]
        for person, count in people.items():
            lines.append(f'{person}\t{count}')
            for number in range(1, count + 1):
                name = f'{person}_{number:04}'
                image, points[name] = face(rng, (50, 50))
                path = root / 'lfw-deepfunneled' / person / f'{name}.jpg'
                image = save_jpeg(path, image)
                of_boxes[name] = np.array([9.5, 5.5, 9.5 + 24, 5.5 + 30], np.float32)
                written[split, name] = image, points[name], of_boxes[name]
        (root / LISTS[split]).write_text('\n'.join(lines) + '\n')
    write_npz(root / 'landmarks.npz', points)
    if boxes:
        write_csv(root / 'boxes.csv', of_boxes)
    return written


XML = """<annotation><filename>{name}.jpg</filename><object><name>cat</name><bndbox>
<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>
</bndbox></object></annotation>"""


def towards_camera(rng, size):
    """Returns unit normals towards the camera, and a background of 0."""
    normals = rng.normal(size=(*size, 3))
    normals[..., 2] = -np.abs(normals[..., 2])
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals[:4] = 0
    return normals.astype(np.float32)


def write_pets(root, count=5, form='npy', box=(11, 6, 30, 25), of_crop=False):
    """Writes a folder of Oxford-IIIT Pet. Returns {name: (image, normals of the image)}."""
    rng = np.random.default_rng(2)
    written = {}
    for folder in ('annotations/xmls', 'normals'):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        name = f'Abyssinian_{number}'
        image = save_jpeg(root / 'images' / f'{name}.jpg', layouts.photo(rng, SIZE))
        normals = towards_camera(rng, SIZE)
        written[name] = image, normals
        (root / 'annotations/xmls' / f'{name}.xml').write_text(XML.format(name=name, box=box))
        if of_crop:
            normals = normals[box[1] - 1 : box[3], box[0] - 1 : box[2]]
        if form == 'npy':
            np.save(root / 'normals' / f'{name}.npy', normals)
        else:
            codes = np.round((normals * [1, -1, -1] + 1) / 2 * 255).astype(np.uint8)
            codes[~normals.any(axis=-1)] = 0
            layouts.save(root / 'normals' / f'{name}.png', codes)
    # An image without a box belongs to no split.
    save_jpeg(root / 'images' / 'Bombay_1.jpg', layouts.photo(rng, SIZE))
    return written
