"""`--mode predict`: class maps for a folder of images of any size, from one compiled net.

For each image of the input folder, four 8-bit PNGs of the image's own size are written. Sub-folders
are kept.

    ids/<name>.png         the data set's own ids, one channel, as benchmark servers expect them
    color/<name>.png       the classes in the colours of the palette
    overlay/<name>.png     the mean of these colours and the image
    confidence/<name>.png  255 x the largest class probability

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

Resuming. Files are written under another name and renamed, so a file that exists is complete.
`predict.jsonl` in the output folder lists the finished images with digests of their files. A second
run skips an image only if its file has the listed digest. `predict.json` describes how the results
were made: the digest of the net's arrays, the run, its step and config, and the classes. Another
net or setting needs another (or an emptied) folder.
"""

from segjax.modes.predict.assembly import Assembly, argmax
from segjax.modes.predict.batches import all_tiles, predict_tiles
from segjax.modes.predict.outputs import check_classes
from segjax.modes.predict.plan import PredictPlan, base_scale, make_predict_plan, net_sizes
from segjax.modes.predict.run import main, predict_images

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
