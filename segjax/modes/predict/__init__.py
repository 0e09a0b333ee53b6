"""`--mode predict`: class maps of images of any size, and declared predictions of examples.

Class maps (tiled.py). A stage with `predict` gives class maps from one compiled net. The input is a
folder of images, an image, or a video. For each image, four 8-bit PNGs of the image's own size are
written. Sub-folders are kept.

    ids/<name>.png         the data set's own ids, one channel, as benchmark servers expect them
    color/<name>.png       the classes in the colours of the palette
    overlay/<name>.png     the mean of these colours and the image
    confidence/<name>.png  255 x the largest class probability

A frame of a video is an image with the name <video>/<number>. Frames are read one at a time. When
all frames are finished, their pictures are also written as color/<video>.mp4 and
overlay/<video>.mp4, with the frame rate of the input.

Scale. Evaluation fits every image into `data.eval_size`. Prediction does the same with images up to
the size of the data set's largest image. Larger images keep the scale of that largest image,

    base_scale = min(eval_size / max_size)         (0.5 for Cityscapes evaluated at 512x1024)

and are cut into overlapping tiles of `predict.tile` (tiles.py):

    scale(image) = max(base_scale, min(eval_size / image size)), times each of `predict.scales`

Tiles are predicted in batches of `predict.batch_size`. A batch may hold tiles of several images.
The predictions of the tiles are blended, averaged over mirrored views, resized bilinearly to the
original size and averaged over scales. The class of a pixel is the argmax at the original size.

Memory. Probabilities exist only for one band of an image. Tile rows are predicted from top to
bottom. Finished rows are resized and decided at once, in strips of at most `STRIP_PIXELS`, one
class at a time. A 10000x8000 image thus needs its uint8 planes and, for each scale, about two rows
of tiles of float32 probabilities.

Clips (clips.py). With `predict.pooling.use`, a video or a folder of consecutive frames is a clip.
Its class probabilities are pooled over regions and time, by STD2P. A clip is finished as a whole.

Declared predictions (prediction.py). A stage with a `Prediction` applies it to examples with named
inputs. Maps come from files, in the formats that data sets use, or from .npy files of their final
values. The input is one of

    a folder of maps         for a single input, which is a map
    a folder of folders      with the names of the inputs, if all of them are maps
    a single map             likewise for a single input
    list.json                [{"name": "a", "image": "a.png", "box": [2, 1, 30, 9], "class": "car"}]
    one.json                 an entry of such a list

Paths are relative to the list. Several examples may have the same file. Names of classes may stand
for train ids in inputs whose name begins with `class`. Label files have the ids of the data set,
before a class map. In all data sets 255 is void, as in the results. Coordinates are those of
`data/kinds.py`: pixel centres lie at whole numbers. So a pixel (x, y) lies in a box if
x0 <= x < x1 and y0 <= y < y1. Maps are letterboxed as in evaluation, and points, boxes and cameras
follow. A prediction without `resize` pads them instead. Each output has its own folder <output>,
with files at the size of the input.

    classes        ids/<name>.png and color/<name>.png
    mask           <name>.png: 255 where the mask is set, and 0 elsewhere
    probabilities  <name>.npz: [H, W, C] float16, and the names of the classes
    image          <name>.png
    images         <name>_00.png, <name>_01.png, ...
    depth          <name>.png: 16 bits in units of `predict.depth_unit` metres, which end at 65535
                   units. <name>.npy: float32 metres. 0 is not measured
    normals        <name>.png: 255 (n + 1) / 2. <name>.npy: float32
    table          columns of table.csv, which has a row per example in the order of the names

Results do not depend on batches, on the order of the examples or on devices. Random streams depend
on the seed and on the name of the example.

Devices. Batches are split over all devices of the process. `predict.batch_size` is rounded up to a
multiple of their number.

Resuming. Files are written under another name and renamed, so a file that exists is complete.
`predict.jsonl` in the output folder lists the finished images or examples with digests of all input
files. A second run skips an image only if its file has the listed digest. `predict.json` describes
how the results were made: the digest of the net's arrays, the run, its step and config, and the
classes. Another net or setting needs another (or an emptied) folder.
"""

from segjax.modes.predict.assembly import Assembly, argmax
from segjax.modes.predict.batches import all_tiles, predict_tiles
from segjax.modes.predict.outputs import check_classes
from segjax.modes.predict.plan import PredictPlan, base_scale, make_predict_plan, net_sizes
from segjax.modes.predict.run import main
from segjax.modes.predict.tiled import predict_images

__all__ = [
    'Assembly',
    'PredictPlan',
    'all_tiles',
    'argmax',
    'base_scale',
    'check_classes',
    'main',
    'make_predict_plan',
    'net_sizes',
    'predict_images',
    'predict_tiles',
]
