"""Compares two shapes by a trained classifier: `python sem.py RUN SHAPE.png TRUTH.png`.

Prints Sem and tIOU inside the box of the truth. Masks are images of one size, 0 outside of the
object. RUN is a run of `shape_classifier`, or of `semantic_inpainting` that trained a classifier.
"""

import functools
import sys

import numpy as np
from PIL import Image

from segjax import config as config_lib
from segjax.metrics import sem, shape
from segjax.tasks import shapes
from segjax.train import checkpoints, stored

run, *files = sys.argv[1:]
config = config_lib.from_json(stored.read_config(f'{run}/config.json'))
make = shapes.make_classify(config, stored.read_spec(f'{run}/spec.json'), config.shapes)
weights = checkpoints.load_params(f'{run}/shapes:best')  # the highest accuracy, as in the paper
nets = (weights['params']['classifier'], weights['model_state']['classifier'])
classify = functools.partial(make, *nets)

other, truth = (np.asarray(Image.open(path).convert('L')) > 0 for path in files)  # [H, W]
rows, columns = truth.nonzero()
box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]) - 0.5
(other, mask), (truth, _) = (shapes.cut_masks(config.shapes, m[None], box) for m in (other, truth))
iou = shape.target_iou(other.astype(int), truth.astype(int), np.array([1]), mask)
print(f'Sem {sem.sem(classify, other, truth, mask)[0]:.4f}, tIOU {iou[0]:.4f}')
