"""Compares two shapes by a trained classifier: `python sem.py RUN SHAPE.png TRUTH.png`.

Prints Sem and tIOU in the box of the truth. Masks are images of one size, 0 around the object.
RUN is a run of `shape_classifier`, or of `semantic_inpainting` with its own classifier.
"""

import functools
import pathlib
import sys

import numpy as np
from PIL import Image

from segjax import config as config_lib
from segjax.metrics import sem, shape
from segjax.tasks import shapes
from segjax.train import checkpoints, stored

run, *files = map(pathlib.Path, sys.argv[1:])
config = config_lib.from_json(stored.read_config(run / 'config.json'))
make = shapes.make_classify(config, stored.read_spec(run / 'spec.json'), config.shapes)
weights = checkpoints.load_params(f'{run}/shapes:best')  # the highest accuracy, as in the paper
nets = (weights[field]['classifier'] for field in ('params', 'model_state'))
classify = functools.partial(make, *nets)
masks = np.stack([np.asarray(Image.open(path).convert('L')) > 0 for path in files])  # [2, H, W]
rows, columns = masks[1].nonzero()
box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]] * 2) - 0.5
masks, inside = shapes.cut_masks(config.shapes, masks, box)
iou = shape.target_iou(masks[:1].astype(int), masks[1:].astype(int), np.array([1]), inside[:1])
print(f'Sem {sem.sem(classify, masks[:1], masks[1:], inside[:1])[0]:.4f}, tIOU {iou[0]:.4f}')
