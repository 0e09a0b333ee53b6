"""Objects of an example: a table of boxes and classes, and a crop around a drawn object.

An object is a segment of the instance map. Its class is the median of its train ids: the median of
an even number of pixels is the smaller of the two in the middle. Objects whose class is void are
dropped. Boxes follow segjax/data/crops.py: the tight box of pixels 2 .. 5 reaches from 1.5 to 5.5.

`object_features` computes tables once, as derived features. `crop_object` is an `Input.transform`
for semantic inpainting of label maps (Hong et al., Learning Hierarchical Semantic Image
Manipulation through Structured Representations, NeurIPS 2018, arXiv:1808.07535). With the table of
`targets_feature` as `Input.each` and the transform `crop_target`, each object is an example.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from segjax.data import crops, transforms
from segjax.data.transforms import Example, Size
from segjax.errors import InputError, unknown_name
from segjax.protocol import Derived
from segjax.spec import IGNORE, ClassSpec, Feature

NUM_LABELS = IGNORE + 1


class Objects(NamedTuple):
    """The objects of an example, the largest first. Equally large objects are in order of their id.

    boxes      [n, 4] float32, the smallest boxes (x0, y0, x1, y1) that contain their pixels
    train_ids  [n] int32, the median train id of each object
    areas      [n] int32, pixels of each object
    instances  [n] int32, ids in the instance map
    """

    boxes: np.ndarray
    train_ids: np.ndarray
    areas: np.ndarray
    instances: np.ndarray

    def chosen(self, which: np.ndarray) -> 'Objects':
        """Returns the objects at positions [k], or where a mask [n] is set."""
        return Objects(*(values[which] for values in self))


def find_objects(
    example: Example, min_share: float = 0.0, label: str = 'label', instance: str = 'instance'
) -> Objects:
    """Returns the objects of an example.

    Args:
      example: has a map of train ids and a map of instance ids, [H, W] of one size.
      min_share: smallest pixels of an object / pixels of the map. An object of this share counts.
      label: key of the train ids.
      instance: key of the instance ids. 0 is no object.

    Raises:
      InputError: the maps differ in size, or are no maps of ids.
    """
    try:
        transforms.map_size(example, (label, instance))
    except InputError as error:
        raise error.at(f'{error.where}{_of(example)}') from error

    # Count the labels of each object: [n, 256].
    inside = example[instance] != 0
    ids, numbers = np.unique(example[instance][inside], return_inverse=True)
    pairs = numbers * NUM_LABELS + example[label][inside]
    counts = np.bincount(pairs, minlength=len(ids) * NUM_LABELS).reshape(len(ids), NUM_LABELS)
    areas = counts.sum(axis=1)
    middle = (areas + 1) // 2
    train_ids = (counts.cumsum(axis=1) >= middle[:, None]).argmax(axis=1)

    # The tight boxes, from a map of the numbers 1 .. n.
    numbered = np.zeros(inside.shape, np.int32)
    numbered[inside] = numbers + 1
    edges = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(numbered)]
    boxes = np.array(edges, np.float32).reshape(-1, 4) - np.float32(0.5)

    # Drop void and small objects, then order the remaining.
    objects = Objects(
        boxes, train_ids.astype(np.int32), areas.astype(np.int32), ids.astype(np.int32)
    )
    kept = objects.chosen((train_ids != IGNORE) & (areas >= min_share * inside.size))
    return kept.chosen(np.lexsort((kept.instances, -kept.areas)))


def _of(example: Example) -> str:
    """Returns ' of NAME' for an example that has a name."""
    return f' of {example["name"]}' if 'name' in example else ''


# --- tables ---------------------------------------------------------------------------------------


TABLE = {
    'boxes': (Feature('boxes', (0, 4)), np.nan),
    'train_ids': (Feature('number', dtype='int32'), IGNORE),
    'areas': (Feature('number', dtype='int32'), 0),
    'instances': (Feature('number', dtype='int32'), 0),
}
"""For each field of `Objects`: its feature of no rows, and the value of empty rows."""


def object_table(
    example: Example,
    field: str,
    num_objects: int,
    min_share: float = 0.01,
    label: str = 'label',
    instance: str = 'instance',
) -> np.ndarray:
    """Returns a field of the largest objects of an example, in a table of constant length.

    Empty rows are at the end. They are NaN in 'boxes', 255 in 'train_ids' and 0 in 'areas' and
    'instances'.

    Args:
      example: as in `find_objects`.
      field: of `Objects`.
      num_objects: n, rows of the table. Smaller objects are dropped.
      min_share: as in `find_objects`. The default is 1 % of the map, as for the shapes of COCO.
      label: key of the train ids.
      instance: key of the instance ids.

    Returns:
      [n, 4] float32 for 'boxes', [n] int32 for the remaining fields.
    """
    objects = find_objects(example, min_share, label, instance)
    values = getattr(objects, field)[:num_objects]
    _, empty = TABLE[field]
    table = np.full((num_objects, *values.shape[1:]), empty, values.dtype)
    table[: len(values)] = values
    return table


def object_features(
    num_objects: int, min_share: float = 0.01, prefix: str = 'object', data: str = 'data'
) -> tuple[Derived, ...]:
    """Returns the tables of `object_table` as derived features.

    Their names are '{prefix}_boxes' [n, 4], which augmentation moves, and '{prefix}_train_ids',
    '{prefix}_areas' and '{prefix}_instances' [n]. Train ids are those before a class map.

    Args:
      num_objects: n, rows of the tables.
      min_share: smallest pixels of an object / pixels of the map, in [0, 1].
      prefix: of the names.
      data: config section of the data set.

    Raises:
      InputError: no row, or a share outside of [0, 1].
    """
    if num_objects < 1 or not 0 <= min_share <= 1:
        raise InputError(
            'object_features',
            got=f'num_objects={num_objects}, min_share={min_share}',
            expected='num_objects of at least 1, and min_share in [0, 1]',
        )

    # A feature for each field, because augmentation moves the boxes alone.
    features = []
    for field, (feature, _) in TABLE.items():
        shape = (num_objects, *feature.shape[1:])
        settings = {'field': field, 'num_objects': num_objects, 'min_share': min_share}
        compute = functools.partial(object_table, **settings)
        features.append(
            Derived(
                f'{prefix}_{field}',
                feature._replace(shape=shape),
                reads=('label', 'instance'),
                compute=compute,
                settings=settings,
                data=data,
            )
        )
    return tuple(features)


# --- classes --------------------------------------------------------------------------------------


def train_ids_of(names: Iterable[str], classes: ClassSpec) -> tuple[int, ...]:
    """Returns the train ids of classes. Raises InputError for a name that no class has."""
    train_ids = []
    for name in names:
        if name not in classes.names:
            raise unknown_name('class of objects', name, classes.names)
        train_ids.append(classes.names.index(name))
    return tuple(train_ids)


def rank_classes(
    tables: Iterable[Objects],
    classes: ClassSpec,
    names: Sequence[str] = (),
    min_side: float = 0.0,
) -> list[tuple[str, int]]:
    """Returns classes with their numbers of objects, the most frequent first.

    Classes with equally many objects are in order of their train ids. The first 7 of
    `labels.ADE20K_BEDROOM_INTEREST` on the training bedrooms are an example.

    Args:
      tables: the objects of each example.
      classes: of the data set.
      names: classes to rank, () for all.
      min_side: smallest longer side of a box that counts, in pixels.

    Raises:
      InputError: a name that no class has.
    """
    ranked = sorted(train_ids_of(names or classes.names, classes))
    counts = np.zeros(NUM_LABELS, np.int64)
    for objects in tables:
        large = longer_sides(objects.boxes) >= min_side
        counts += np.bincount(objects.train_ids[large], minlength=NUM_LABELS)
    ranked.sort(key=lambda train_id: -counts[train_id])
    return [(classes.names[train_id], int(counts[train_id])) for train_id in ranked]


# --- boxes ----------------------------------------------------------------------------------------


EDGE_NOISE = 1e-4
"""Rounding noise of the edges of boxes, which are float32."""


def longer_sides(boxes: np.ndarray) -> np.ndarray:
    """Returns max(width, height) [n] of boxes [n, 4]."""
    return np.maximum(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])


def check_box(box: np.ndarray, size: Size, where: str = 'box of an object') -> None:
    """Raises InputError unless a box [4] has an area and lies inside a map of (height, width).

    The last pixel is inside if x1 lies beyond its centre: x1 = W holds the same pixels as W - 0.5.
    """
    x0, y0, x1, y1 = (float(edge) for edge in box)
    below, right = size
    expected = (
        f'[x0, y0, x1, y1] with -0.5 <= x0 < x1 <= {right} and -0.5 <= y0 < y1 <= {below}, '
        f'for a map of {below} x {right} (height x width)'
    )
    # Also refuses NaN, which is no absent box here.
    if not (x0 < x1 and y0 < y1):
        raise InputError(
            where,
            got=f'{box_text(box)}, without an area',
            expected=expected,
            fix='give the left, upper, right and lower edge, not width and height',
        )

    # A part inside of the map may be what the caller meant.
    has_no_pixel = x0 >= right - 0.5 or y0 >= below - 0.5
    if has_no_pixel or x0 < -0.5 or y0 < -0.5 or x1 > right or y1 > below:
        inside = _clipped(np.asarray(box), size)
        is_box = inside[0] < inside[2] and inside[1] < inside[3]
        raise InputError(
            where,
            got=f'{box_text(box)}, outside of the map',
            expected=expected,
            fix=f'its part inside: {box_text(inside)}' if is_box else 'move it into the map',
        )


def box_text(box: np.ndarray) -> str:
    """Returns a box [4] as text, such as '[1.5, 2, 9.5, 8]'."""
    return '[' + ', '.join(f'{float(edge):g}' for edge in box) + ']'


def check_edit_box(
    box: np.ndarray, size: Size, where: str = 'box', *, pixels: int, margin: float
) -> None:
    """Checks that a net can fill a box of a map, given the context of the box.

    The net sees the square of `context_square` without a random shift, cut to `pixels`.

    Args:
      box: [4].
      size: (height, width) of the map.
      where: place of the box, for errors.
      pixels: of a side of the cut square.
      margin: side of the square / longer side of the box.

    Raises:
      InputError: the box has no area, lies outside of the map, leaves no context, does not fit into
        the square, or is smaller than a pixel of the map or of the cut square.
    """
    check_box(box, size, where)
    text = box_text(box)
    box = np.asarray(box, np.float64)
    square = context_square(box, margin, size).astype(np.float64)
    side = square[2] - square[0]

    # Pixels count by their centres: the first pixel inside, and the first pixel beyond.
    first = np.maximum(np.ceil(box[:2]), 0)
    end = np.minimum(np.ceil(box[2:]), np.flip(size))
    seen_first, seen_end = np.split(np.ceil(square), 2)

    # Labels are copied: fewer pixels than a step of the cut may fall between the samples.
    lengths = box[2:] - box[:2]
    sides = np.minimum(lengths, end - first)
    least = max(1.0, side / pixels)
    if sides.max() < 1 - EDGE_NOISE or sides.min() * pixels < side * (1 - EDGE_NOISE):
        width, height = sides if sides.min() > 0 else lengths
        raise InputError(
            where,
            got=f'{text}, of {width:.3g} x {height:.3g} pixels',
            expected=f'sides of at least {least:.3g} pixels: the net sees {side:g} x {side:g} '
            f'pixels as {pixels} x {pixels}',
            fix=f'a box that is less narrow, or at least {least:.3g} pixels wide and high',
        )

    if not _has_context(square, pixels, first, end):
        is_whole = side == max(size) and (end - first == np.flip(size)).all()
        raise InputError(
            where,
            got=text + (', the whole map' if is_whole else ', all that the net sees'),
            expected=f'a box with context around it, in a square of {side:g} x {side:g} pixels',
            fix=f'a box whose longer side is clearly below {min(size)} pixels',
        )
    if (first < seen_first).any() or (end > seen_end).any():
        raise InputError(
            where,
            got=f'{text}, which is {lengths.max():g} pixels long',
            expected=f'at most {min(size)} pixels, the shorter side of the map: nets see squares',
            fix='several boxes, each as an edit of the result of the edit before',
        )


def _has_context(square: np.ndarray, pixels: int, first: np.ndarray, end: np.ndarray) -> bool:
    """Returns whether a cut of a square copies a pixel outside of a box.

    The few pixels around a large box may fall between the samples of the cut.

    Args:
      square: [4].
      pixels: of a side of the cut.
      first: (column, row) of the first pixel of the box.
      end: (column, row) of the first pixel behind the box.
    """
    shares = (np.arange(pixels) + 0.5) / pixels
    sides = square[2:] - square[:2]
    positions = square[:2, None] + shares * sides[:, None]
    copied = np.floor(positions + 0.5 + transforms.TIE)  # [2, pixels] columns and rows
    return bool(((copied < first[:, None]) | (copied >= end[:, None])).any())


def box_mask(box: np.ndarray, size: Size) -> np.ndarray:
    """Returns [H, W] uint8, 1 for the pixels whose centres lie in a box [4], and 0 elsewhere.

    Raises:
      InputError: the box has no area, or reaches beyond the map.
    """
    check_box(box, size)
    x0, y0, x1, y1 = np.ceil(box).astype(int)
    mask = np.zeros(size, np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def enlarged(boxes: np.ndarray, share: float, size: Size) -> np.ndarray:
    """Returns boxes [n, 4] of which each edge is moved outward, but not beyond the map.

    The edges move by max(round(share * side), 1) pixels. A share of 0 moves nothing.
    """
    if share == 0:
        return boxes
    sides = boxes[..., 2:] - boxes[..., :2]
    margins = np.maximum(np.rint(share * sides), 1)
    moved = np.concatenate([boxes[..., :2] - margins, boxes[..., 2:] + margins], axis=-1)
    return _clipped(moved, size)


def scaled(box: np.ndarray, factor: float, size: Size) -> np.ndarray:
    """Returns a box [4] scaled about its centre, in whole pixels, cut off at the edges of the map.

    Pixels that the scaled box covers in part belong to the result.
    """
    centre = (box[:2] + box[2:]) / 2
    half = factor * (box[2:] - box[:2]) / 2
    # Edges of pixels lie halfway between whole coordinates.
    first = np.floor(centre - half + 0.5) - 0.5
    last = np.ceil(centre + half + 0.5) - 0.5
    return _clipped(np.concatenate([first, last]), size)


def _clipped(boxes: np.ndarray, size: Size) -> np.ndarray:
    """Returns boxes [..., 4] float32, cut off at the edges of a map of (height, width)."""
    last = np.array([size[1], size[0], size[1], size[0]]) - 0.5
    return np.clip(boxes, -0.5, last).astype(np.float32)


def context_square(
    box: np.ndarray, margin: float, size: Size, jitter: Sequence[float] = (0.5, 0.5)
) -> np.ndarray:
    """Returns a square of the map with an object and its context.

    With the longer side m of the box, the side of the square is

        s = min(margin m, min(W, H))

    Its centre is the centre of the box plus a shift of up to t / 4 along each axis, with
    t = min((margin - 1) m, min(W, H)). Then the square is moved into the map. If the map is large
    enough, the square contains the box.

    Args:
      box: [4], of the object.
      margin: factor of the longer side, at least 1.
      size: (height, width) of the map.
      jitter: (x, y) in [0, 1]: shift from -t / 4 (0) over no shift (0.5) to t / 4 (1).

    Returns:
      [4] float32.

    Raises:
      InputError: the box has no area, or reaches beyond the map.
    """
    check_box(box, size)
    box = np.asarray(box, np.float64)
    longer = float(longer_sides(box))
    shorter_map = min(size)
    side = min(margin * longer, shorter_map)
    most = min((margin - 1) * longer, shorter_map) / 4

    # The first corner, inside the range that keeps the square in the map.
    centre = (box[:2] + box[2:]) / 2 + most * (2 * np.asarray(jitter) - 1)
    room = np.array([size[1], size[0]]) - 0.5 - side
    first = np.clip(centre - side / 2, -0.5, room)
    return np.concatenate([first, first + side]).astype(np.float32)


# --- drawn objects --------------------------------------------------------------------------------


class ObjectCrop(NamedTuple):
    """How `crop_object` draws and cuts. `object_crop` checks the values.

    The values of Hong et al. are those of `size`, `outside` and `flip`, and by data set

        Cityscapes  margin 2, min_side 128, background 0.3 in training and 0.1 in tests
        bedrooms    margin 3, min_side 32, background 0.05, enlarge 0.01

    classes           train ids whose objects are drawn, with equal probability
    background_class  class id of a box that holds no object. No class has this id
    size              height and width of the result
    margin            side of the cut square / longer side of the box
    min_side          smallest longer side of a drawn object, and smallest side of a background
                      box, in pixels
    max_side          largest side of a background box, in pixels
    min_share         smallest pixels of a drawn object / pixels of the map
    background        probability of a background box. Without an object, the box is background
    outside           smallest and largest factor of the box in 'mask_out'
    enlarge           share of a side by which boxes grow at each edge, see `enlarged`
    flip              probability of a horizontal flip
    whole_map         whether the whole map is stretched to the result, instead of a cut square
    keep_instance     whether the result has the map of instance ids
    """

    classes: tuple[int, ...]
    background_class: int
    size: int = 256
    margin: float = 2.0
    min_side: float = 128
    max_side: float = 256
    min_share: float = 0.0
    background: float = 0.0
    outside: tuple[float, float] = (1.2, 1.5)
    enlarge: float = 0.0
    flip: float = 0.0
    whole_map: bool = False
    keep_instance: bool = False


MADE = {
    'box': Feature('boxes', (1, 4)),
    'mask_box': Feature('instance', dtype='uint8'),
    'mask_out': Feature('instance', dtype='uint8'),
    'mask_object': Feature('instance', dtype='uint8'),
    'class_id': Feature('number', dtype='int32'),
}
"""The features that `crop_object` and `crop_target` make, for `Input.made`."""


def object_crop(names: Iterable[str], classes: ClassSpec, **options: Any) -> ObjectCrop:
    """Returns checked settings of `crop_object`.

    Args:
      names: of the classes whose objects are drawn.
      classes: of the data set, as the input sees them.
      **options: fields of `ObjectCrop`. By default, `background_class` is the number of classes C.

    Raises:
      InputError: a name that no class has, a background class that is a class, or a value outside
        of its range.
    """
    # By default, the first id that no class has marks background.
    train_ids = train_ids_of(names, classes)
    crop = ObjectCrop(train_ids, **{'background_class': classes.num_classes, **options})

    # For each field: whether its value is in range, and the range.
    ranges = {
        'background_class': (
            classes.num_classes <= crop.background_class < IGNORE,
            f'an id that no class has: {classes.num_classes} .. {IGNORE - 1}',
        ),
        'size': (crop.size >= 1, 'at least 1 pixel'),
        'margin': (crop.margin >= 1, 'at least 1'),
        'min_side': (crop.min_side >= 1, 'at least 1 pixel'),
        'max_side': (crop.min_side <= crop.max_side, f'at least min_side, {crop.min_side}'),
        'min_share': (0 <= crop.min_share <= 1, 'a share of the map'),
        'background': (0 <= crop.background <= 1, 'a probability'),
        'outside': (1 <= crop.outside[0] <= crop.outside[1], 'factors of at least 1, in order'),
        'enlarge': (crop.enlarge >= 0, 'at least 0'),
        'flip': (0 <= crop.flip <= 1, 'a probability'),
    }
    for field, (holds, expected) in ranges.items():
        if not holds:
            got = repr(getattr(crop, field))
            raise InputError(f'{field} of object crops', got=got, expected=expected)
    return crop


def crop_object(
    example: Example,
    rng: np.random.Generator,
    crop: ObjectCrop,
    declared: Mapping[str, Feature] = {},
) -> dict[str, Any]:
    """Cuts a square around a drawn object, or around a background box, for `Input.transform`.

    A single matrix moves all maps: it cuts, resizes and perhaps flips. The square is that of
    `context_square` with a random shift.

    Args:
      example: 'label' and 'instance', and further features that move with them.
      rng: source of the random numbers. Every call draws equally many.
      crop: the settings.
      declared: features of the example by key, where the kind does not follow from the key.

    Returns:
      The features of the example, of which 'instance' is optional, and the features of `MADE`:
      box          [1, 4] float32, of the object in the cut
      mask_box     [size, size] uint8, 1 inside the box
      mask_out     [size, size] uint8, 1 inside the box scaled by a random factor
      mask_object  [size, size] uint8, 1 at the pixels of the object, 0 for a background box
      class_id     int32, class of the object, or the background class

    Raises:
      InputError: 'label' and 'instance' differ in size.
    """
    shares = rng.random(10)
    return _cut(example, _drawn_object(example, crop, shares[:2]), shares[2:], crop, declared)


def crop_target(
    example: Example,
    rng: np.random.Generator,
    crop: ObjectCrop,
    targets: str = 'targets',
    declared: Mapping[str, Feature] = {},
) -> dict[str, Any]:
    """Cuts a square around an object of a table. It is made to be an `Input.transform`.

        functools.partial(objects.crop_target, crop=crop)

    with `each` = 'targets' and `reads` = ('label', 'instance', 'targets', 'row'). The same random
    numbers cut as in `crop_object`. No object is drawn and no box is background, so the fields
    `classes`, `min_side`, `min_share`, `background` and `max_side` are not used.

    Args:
      example: has 'label' and 'instance' of the same size, the table and 'row'. May have 'image'
        and further features.
      rng: random numbers. Their amount does not depend on the example.
      crop: the settings.
      targets: key of the table [n] of instance ids, see `targets_feature`.
      declared: as in `crop_object`.

    Returns:
      The features that `crop_object` returns, without the table. 'row' is kept.

    Raises:
      InputError: 'label' and 'instance' differ in size, or the map has no object of this id.
    """
    shares = rng.random(10)
    row = int(example['row'])
    instance = int(example[targets][row])
    rest = {key: value for key, value in example.items() if key != targets}

    # Only the pixels of the object are sorted.
    pixels = example['instance'] == instance
    alone = {**rest, 'instance': np.where(pixels, example['instance'], 0)}
    found = find_objects(alone)
    if not len(found.instances):
        raise InputError(
            f'row {row} of {targets!r}',
            got=f'instance {instance}, which no labelled object has',
            expected='the id of an object in the instance map',
            fix='compute the table from the same maps, as `targets_feature` does',
        )
    size = example['label'].shape[:2]
    (box,) = enlarged(found.boxes, crop.enlarge, size)
    target = crops.Object(box, int(found.train_ids[0]), instance)
    return _cut(rest, target, shares[2:], crop, declared)


def _cut(
    example: Example,
    chosen: crops.Object | None,
    shares: np.ndarray,
    crop: ObjectCrop,
    declared: Mapping[str, Feature],
) -> dict[str, Any]:
    """Returns the result of `crop_object` for an object, or for a background box.

    Args:
      example: as in `crop_object`.
      chosen: the object with its enlarged box. None: a background box.
      shares: 8 numbers in [0, 1): 4 for a background box, then for the factor of the outer box,
        for x and y of the square, and for the flip.
      crop: the settings.
      declared: as in `crop_object`.
    """
    # The box, and the pixels of its object.
    size = example['label'].shape[:2]
    if chosen is None:
        box = background_box(size, crop.min_side, crop.max_side, shares[:4])
        mask_object = np.zeros(size, np.uint8)
        class_id = crop.background_class
    else:
        box = chosen.box
        mask_object = (example['instance'] == chosen.instance).astype(np.uint8)
        class_id = chosen.train_id
    factor = crop.outside[0] + shares[4] * (crop.outside[1] - crop.outside[0])

    # A single matrix cuts, resizes and flips.
    out_size = (crop.size, crop.size)
    square = context_square(box, crop.margin, size, shares[5:7])
    whole = np.array([0, 0, size[1], size[0]], np.float32) - np.float32(0.5)
    matrix = crops.crop_matrix(whole if crop.whole_map else square, out_size)
    if shares[7] < crop.flip:
        matrix = transforms.flip_matrix(crop.size) @ matrix
    made = {
        'box': box[None],
        'mask_box': box_mask(box, size),
        'mask_out': box_mask(scaled(box, factor, size), size),
        'mask_object': mask_object,
        'class_id': np.int32(class_id),
    }
    kept = dict(example)
    if not crop.keep_instance:
        del kept['instance']
    return transforms.apply_geometry({**kept, **made}, matrix, out_size, {**declared, **MADE})


def _drawn_object(example: Example, crop: ObjectCrop, shares: np.ndarray) -> crops.Object | None:
    """Returns a drawn object with its enlarged box, None for a background box.

    Args:
      example: has 'label' and 'instance'.
      crop: the settings.
      shares: two numbers in [0, 1): the first chooses background, the second the object.
    """
    candidates = admissible(example, crop.classes, crop.min_side, crop.min_share, crop.enlarge)
    number = len(candidates.instances)
    if not number or shares[0] < crop.background:
        return None
    position = int(shares[1] * number)
    return crops.Object(
        candidates.boxes[position],
        int(candidates.train_ids[position]),
        int(candidates.instances[position]),
    )


def admissible(
    example: Example,
    classes: Sequence[int],
    min_side: float,
    min_share: float = 0.0,
    enlarge: float = 0.0,
) -> Objects:
    """Returns the objects of an example that an `ObjectCrop` allows, with their enlarged boxes.

    Args:
      example: has 'label' and 'instance'.
      classes, min_side, min_share, enlarge: fields of `ObjectCrop`.
    """
    objects = find_objects(example, min_share)
    size = example['label'].shape[:2]
    objects = objects._replace(boxes=enlarged(objects.boxes, enlarge, size))
    allowed = np.isin(objects.train_ids, classes)
    return objects.chosen(allowed & (longer_sides(objects.boxes) >= min_side))


def target_table(
    example: Example,
    classes: Sequence[int],
    num_objects: int,
    min_side: float,
    min_share: float = 0.0,
    enlarge: float = 0.0,
) -> np.ndarray:
    """Returns the instance ids [n] int32 of the largest admissible objects, 0 in empty rows.

    Args:
      example: has 'label' and 'instance'.
      classes, min_side, min_share, enlarge: fields of `ObjectCrop`.
      num_objects: n. Smaller objects are dropped.
    """
    instances = admissible(example, classes, min_side, min_share, enlarge).instances[:num_objects]
    table = np.zeros(num_objects, np.int32)
    table[: len(instances)] = instances
    return table


def targets_feature(
    crop: ObjectCrop, num_objects: int, name: str = 'targets', data: str = 'data'
) -> Derived:
    """Returns the table of the objects that `crop_object` may draw, as a derived feature.

    As `Input.each` it makes each of these objects an example, see `crop_target`.

    Args:
      crop: the settings. Their classes are train ids after the class map of the data set.
      num_objects: n, rows of the table, the largest object first. Empty rows are 0.
      name: of the feature [n] int32.
      data: config section of the data set.

    Raises:
      InputError: no row.
    """
    if num_objects < 1:
        where = f'num_objects of feature {name!r}'
        raise InputError(where, got=f'{num_objects}', expected='at least 1')
    settings = {
        'classes': crop.classes,
        'num_objects': num_objects,
        'min_side': crop.min_side,
        'min_share': crop.min_share,
        'enlarge': crop.enlarge,
    }
    return Derived(
        name,
        Feature('number', (num_objects,), dtype='int32'),
        reads=('label', 'instance'),
        compute=functools.partial(target_table, **settings),
        settings=settings,
        data=data,
    )


def background_box(
    size: Size, min_side: float, max_side: float, shares: Sequence[float]
) -> np.ndarray:
    """Returns a box of whole pixels at a random place of a map.

    Width and height are uniform in min_side .. max_side, but not larger than the map. All places
    have the same probability.

    Args:
      size: (height, width) of the map.
      min_side: smallest side in pixels.
      max_side: largest side in pixels.
      shares: four numbers in [0, 1): they choose width, height, x and y.

    Returns:
      [4] float32.
    """
    map_sides = np.array([size[1], size[0]])
    least = np.minimum(np.ceil(min_side), map_sides)
    most = np.minimum(np.floor(max_side), map_sides)
    sides = least + np.floor(np.asarray(shares[:2]) * (most - least + 1))
    first = np.floor(np.asarray(shares[2:]) * (map_sides - sides + 1)) - 0.5
    return np.concatenate([first, first + sides]).astype(np.float32)
