"""Measures what pooling over regions and frames changes on predictions for real video.

usage: python -m tests.helpers.video_pooling FOLDER CACHE PICTURES [VGG SIDES]

FOLDER holds cityscapes_video/seq*/{image,label_predicted}, and cityscapes_mini with the true labels
of frame 19 of each clip. CACHE keeps regions and flows for the next call. PICTURES gets a picture
of each clip. VGG and SIDES are weights of HED, for one more kind of regions.

One-hot maps of the predictions are pooled onto frame 19 and compared with the truth, which is
resized to the predictions by nearest neighbours. Five maps are compared:

none        the prediction
superpixel  pooled over the regions of frame 19
full        pooled over the regions of the frames 14 .. 24
past        pooled over the regions of the frames 9 .. 19
pixel       mean over the frames 14 .. 24 along optical flow, without regions

Predictions are also corrupted: in every frame independently, a share of the cells of a watershed
(16 x 32 cells) gets a random class each. Pooling uses regions of another method. Intervals are of
differences, by bootstrap over the blocks of 64 x 64 pixels of all clips.
"""

import pathlib
import sys
import time

import cv2
import jax
import numpy as np

from segjax.data import correspondences, flow
from segjax.data import regions as region_lib
from segjax.data.labels import CITYSCAPES, CITYSCAPES_LABEL_IDS
from segjax.metrics import boundary, confusion
from segjax.ops import regions
from segjax.spec import IGNORE
from segjax.tasks import clip_pooling, edges

TARGET = 19
WINDOWS = {'full': (14, 24), 'past': (9, 19)}
"""First and last frame."""
FRAMES = range(9, 25)
PIXEL = 'pixel'
POOLINGS = ('none', 'superpixel', *WINDOWS, PIXEL)
SHARES = (0, 10, 20, 40)
"""Percent of the cells that are corrupted."""
CELLS = (16, 32)
SEED = 2017
BLOCK = 64
RESAMPLES = 1000
NUM_CLASSES = CITYSCAPES.num_classes
PALETTE = np.array([*CITYSCAPES.palette, *[(0, 0, 0)] * (256 - NUM_CLASSES)], np.uint8)

NUM_REGIONS = 1200
"""Regions of an image: as many for each pixel as 550 regions of 425 x 560 pixels."""

REGIONS = {
    'all': {'threshold': 0.001, 'num_regions': NUM_REGIONS},
    'cut': {'threshold': 0.2, 'num_regions': NUM_REGIONS},
}
"""all: as many regions as there is room for. cut: the hierarchy at its usual threshold."""


along_flow = jax.jit(regions.pool_along_flow)


class Clip:
    """Images, predictions, regions and flows of a clip, and the truth of its target."""

    def __init__(self, folder, clip, cache):
        self.name = clip.name
        self.cache = cache
        self.images = {}
        self.labels = {}
        paths = sorted((clip / 'image').glob('*.jpg'))
        for frame in FRAMES:
            image = cv2.imread(str(paths[frame]))[..., ::-1]
            self.images[frame] = np.ascontiguousarray(image)
            label = clip / 'label_predicted' / f'{paths[frame].stem}.png'
            self.labels[frame] = read_labels(label)

        # The truth has twice the size.
        scene = paths[TARGET].stem.replace('leftImg8bit', 'gtFine_labelIds')
        truth = next((folder / 'cityscapes_mini' / 'gtFine').rglob(f'{scene}.png'))
        height, width = self.labels[TARGET].shape
        self.truth = cv2.resize(
            read_labels(truth), (width, height), interpolation=cv2.INTER_NEAREST
        )

    def cached(self, name, compute):
        """Returns an array of the cache, which is computed once."""
        path = self.cache / f'{self.name}_{name}.npy'
        if not path.exists():
            np.save(path, compute())
        return np.load(path)

    def regions(self, kind, frame):
        """Returns the regions [H, W] of a frame."""
        feature = region_lib.region_feature('hierarchy', **REGIONS[kind])
        return self.cached(
            f'{frame}_{kind}', lambda: feature.compute({'image': self.images[frame]})
        )

    def flow(self, method, frame, offset):
        """Returns the flow of a frame to its neighbour, None at the ends."""
        neighbour = frame + offset
        if neighbour not in self.images:
            return None
        name = f'{frame}_{method}_{"next" if offset > 0 else "previous"}'
        compute = flow.METHODS[method]
        return self.cached(name, lambda: compute(self.images[frame], self.images[neighbour]))

    def corrupted(self, frame, share):
        """Returns the labels of a frame, of which a share of the cells has random classes."""
        cells = self.cached(
            f'{frame}_cells', lambda: region_lib.regions(self.images[frame], *CELLS)
        )
        number = CELLS[0] * CELLS[1]
        draw = np.random.default_rng([SEED, int(self.name[-1]), frame, share])
        wrong = draw.permutation(number)[: round(number * share / 100)]
        classes = np.full(number, IGNORE)
        classes[wrong] = draw.integers(0, NUM_CLASSES, len(wrong))
        noise = classes[cells]
        return np.where(noise == IGNORE, self.labels[frame], noise).astype(np.uint8)


def read_labels(path):
    """Returns the train ids [H, W] uint8 of a file of label ids."""
    ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return CITYSCAPES_LABEL_IDS.train_ids[ids]


def votes(maps):
    """Returns one-hot maps side by side, [H, W, maps C] uint8. Void has no vote."""
    stacked = [np.asarray(jax.nn.one_hot(each, NUM_CLASSES, dtype=np.uint8)) for each in maps]
    return np.concatenate(stacked, axis=-1)


def elected(pooled):
    """Returns the label map of each one-hot map."""
    parts = np.split(pooled, pooled.shape[-1] // NUM_CLASSES, axis=-1)
    return [clip_pooling.label_map(part) for part in parts]


def pool_frames(clip, kind, method, frames, scores, mode):
    """Returns the pooled scores of the target.

    Args:
      clip: a Clip.
      kind: of regions.
      method: of flow.
      frames: numbers of the frames.
      scores: {frame: [H, W, C]}.
      mode: of `pool_clip`.
    """
    return clip_pooling.pool_clip(
        [scores[frame] for frame in frames],
        [clip.regions(kind, frame) for frame in frames],
        [clip.flow(method, frame, 1) for frame in frames],
        [clip.flow(method, frame, -1) for frame in frames],
        frames.index(TARGET),
        NUM_REGIONS,
        mode=mode,
    )


def show_matches(clips, kind, method):
    """Prints in how many frames of each window a pixel of the target has a match."""
    for name, (first, last) in WINDOWS.items():
        frames = list(range(first, last + 1))
        numbers = []
        for clip in clips:
            # The target alone has the score 1, so the mean over K frames is 1 / K.
            size = (*clip.truth.shape, 1)
            scores = {frame: np.full(size, float(frame == TARGET)) for frame in frames}
            numbers.append(1 / pool_frames(clip, kind, method, frames, scores, 'full'))
        number = np.mean(numbers)
        alone = 100 * (np.stack(numbers) < 1.5).mean()
        print(f'{name}: a pixel has {number:.1f} frames, {alone:.1f} % have the target alone')
    print(flush=True)


def pooled_maps(clip, kind, method):
    """Returns {pooling: label maps of the target for each share}."""
    maps = {frame: [clip.corrupted(frame, share) for share in SHARES] for frame in FRAMES}
    scores = {frame: votes(maps[frame]) for frame in FRAMES}
    made = {'none': maps[TARGET]}

    def pool(frames, mode):
        return elected(pool_frames(clip, kind, method, frames, scores, mode))

    made['superpixel'] = pool([TARGET], 'superpixel')
    for name, (first, last) in WINDOWS.items():
        made[name] = pool(list(range(first, last + 1)), 'full')
    made[PIXEL] = pixel_maps(clip, method, maps)
    return made


def pixel_maps(clip, method, maps):
    """Returns the labels of the means along flow over the frames of the window `full`."""
    first, last = WINDOWS['full']
    flows = []
    for frame in range(first, last + 1):
        side = 1 if frame > TARGET else -1
        way = [clip.flow(method, each, side) for each in range(TARGET, frame, side)]
        still = np.zeros((*clip.truth.shape, 2), np.float32)
        flows.append(correspondences.composed_flow(way) if way else still)
    flows = np.stack(flows)
    labels = []
    for place in range(len(SHARES)):
        frames = [votes([maps[frame][place]]) for frame in range(first, last + 1)]
        mean = along_flow(np.stack(frames).astype(np.float32), flows)
        labels.append(clip_pooling.label_map(np.asarray(mean)))
    return labels


# --- scores ---------------------------------------------------------------------------------------


def blocks_of(values):
    """Returns the sums of the blocks of a map, [blocks]."""
    height, width = values.shape
    return values.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK).sum((1, 3)).ravel()


def confusions(prediction, truth):
    """Returns the confusion matrix of each block, [blocks, C, C + 1]. Void counts as wrong."""
    height, width = truth.shape
    row = np.arange(height)[:, None] // BLOCK
    block = row * (width // BLOCK) + np.arange(width) // BLOCK
    known = truth != IGNORE
    side = NUM_CLASSES + 1
    column = np.minimum(prediction, NUM_CLASSES).astype(int)
    cell = (block * NUM_CLASSES + truth) * side + column
    number = (height // BLOCK) * (width // BLOCK)
    counts = np.bincount(cell[known], minlength=number * NUM_CLASSES * side)
    return counts.reshape(number, NUM_CLASSES, side)


def boundary_counts(prediction, truth):
    """Returns the counts of `boundary.map_counts` of each block, [blocks, 4]."""
    reach = boundary.MAX_DIST * np.hypot(*prediction.shape)
    lines = boundary.thin(boundary.label_boundaries(prediction))
    matched, matched_true = boundary.match(lines, truth.boundaries[0], reach)
    maps = (matched, lines, matched_true, truth.boundaries[0])
    return np.stack([blocks_of(each & truth.counted) for each in maps], axis=-1)


def scores(matrix, counts):
    """Returns (pixel accuracy, mIoU, boundary F) in percent."""
    values = confusion.scores(matrix, CITYSCAPES.names, 'truth_only')
    f = boundary.threshold_scores(counts[None])[0].f
    return 100 * np.array([values['pixel_accuracy'], values['mIoU'], f])


def resampled(matrices, counts):
    """Returns the scores of all blocks [3], and of resamples of blocks [RESAMPLES, 3]."""
    number = len(matrices)
    draw = np.random.default_rng(SEED)
    draws = draw.multinomial(number, np.full(number, 1 / number), size=RESAMPLES)
    all_matrices = (draws @ matrices.reshape(number, -1)).reshape(-1, *matrices.shape[1:])
    each = [scores(*pair) for pair in zip(all_matrices, draws @ counts, strict=True)]
    return scores(matrices.sum(0), counts.sum(0)), np.stack(each)


def show(title, clips, maps):
    """Prints the scores of each share and pooling, and the differences of two poolings."""
    print(f'\n{title}\n', flush=True)
    truths = [boundary.class_truth(clip.truth) for clip in clips]
    results = {}
    for place, share in enumerate(SHARES):
        for pooling in POOLINGS:
            predictions = [made[pooling][place] for made in maps]
            pairs = list(zip(predictions, clips, strict=True))
            matrices = np.concatenate([confusions(each, clip.truth) for each, clip in pairs])
            pairs = zip(predictions, truths, strict=True)
            counts = np.concatenate([boundary_counts(*pair) for pair in pairs])
            results[share, pooling] = resampled(matrices, counts)
            if share == 0:
                show_classes(pooling, matrices.sum(0))
    show_rows('pooling', POOLINGS, results, 'none')
    show_rows('change of time', WINDOWS, results, 'superpixel')


def show_rows(title, poolings, results, start):
    """Prints a table with a row for each share and pooling, and the differences to a pooling."""
    print(f'| corrupted | {title} | pixel accuracy | mIoU | boundary F |\n|---|---|---|---|---|')
    for share in SHARES:
        first, first_samples = results[share, start]
        for pooling in poolings:
            values, samples = results[share, pooling]
            low, high = np.percentile(samples - first_samples, [2.5, 97.5], axis=0)
            changes = zip(values, values - first, low, high, strict=True)
            cells = ['{:.2f} ({:+.2f}, {:+.2f} .. {:+.2f})'.format(*each) for each in changes]
            if pooling == start:
                cells = [f'{value:.2f}' for value in values]
            print(f'| {share} % | {pooling} | {" | ".join(cells)} |')
    print(flush=True)


def show_classes(pooling, matrix):
    """Prints the IoU of each class on stderr, in percent."""
    iou = confusion.scores(matrix, CITYSCAPES.names, 'truth_only')['IoU']
    text = ', '.join(
        f'{name} {100 * value:.1f}' for name, value in iou.items() if value is not None
    )
    print(f'{pooling}: {text}', file=sys.stderr, flush=True)


def show_limits(clips, kind):
    """Prints the number of regions, and the scores of the truth pooled over the regions."""
    predictions = []
    numbers = []
    for clip in clips:
        ids = clip.regions(kind, TARGET)
        numbers.append(int(ids.max()) + 1)
        pooled = clip_pooling.pool_clip(
            [votes([clip.truth])], [ids], None, None, 0, NUM_REGIONS, mode='superpixel'
        )
        predictions += elected(pooled)
    pairs = list(zip(predictions, clips, strict=True))
    matrix = sum(confusions(each, clip.truth).sum(0) for each, clip in pairs)
    counts = [
        boundary_counts(each, boundary.class_truth(clip.truth)).sum(0) for each, clip in pairs
    ]
    accuracy, miou, f = scores(matrix, sum(counts))
    print(f'\nregions {kind}: {numbers} in the targets. Best label of each region:', end=' ')
    print(f'pixel accuracy {accuracy:.2f}, mIoU {miou:.2f}, boundary F {f:.2f}', flush=True)


def draw(clip, made, path):
    """Writes the image, the truth, and four maps of each of two shares."""
    rows = [np.hstack([clip.images[TARGET], PALETTE[clip.truth]])]
    for place in (0, SHARES.index(20)):
        maps = [PALETTE[made[pooling][place]] for pooling in ('none', 'superpixel', 'full', PIXEL)]
        rows += [np.hstack(maps[:2]), np.hstack(maps[2:])]
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])


def main(folder, cache, pictures, weights):
    """Prints the tables of all settings."""
    began = time.perf_counter()
    cache.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(parents=True, exist_ok=True)
    folders = sorted((folder / 'cityscapes_video').glob('seq*'))
    clips = [Clip(folder, each, cache) for each in folders]
    settings = [('all', 'edge_aware'), ('all', 'dis'), ('cut', 'edge_aware')]
    if weights:
        REGIONS['hed'] = {**REGIONS['all'], 'edges': edges.hed(*weights)}
        settings.append(('hed', 'edge_aware'))
    for kind in dict.fromkeys(kind for kind, _ in settings):
        show_limits(clips, kind)
    for kind, method in settings:
        maps = [pooled_maps(clip, kind, method) for clip in clips]
        for clip, made in zip(clips, maps, strict=True):
            draw(clip, made, pictures / f'{clip.name}_{kind}_{method}.png')
        show(f'regions {kind}, flow {method}', clips, maps)
        show_matches(clips, kind, method)
    print(f'\n{time.perf_counter() - began:.0f} s')


if __name__ == '__main__':
    main(*map(pathlib.Path, sys.argv[1:4]), sys.argv[4:])
