"""Compares two shapes by a trained classifier: `python sem.py RUN`.

Prints Sem and tIOU of a shape against its mirror image and against itself. RUN is a run of the
pipeline `shape_classifier`, or of `semantic_inpainting` that trained its classifier.
"""

import functools
import pathlib
import sys

import numpy as np

from segjax import config as config_lib
from segjax.metrics import sem, shape
from segjax.tasks import shapes
from segjax.train import checkpoints, stored

run = pathlib.Path(sys.argv[1])
config = config_lib.from_json(stored.read_config(run / 'config.json'))
make = shapes.make_classify(config, stored.read_spec(run / 'spec.json'), config.shapes)
weights = checkpoints.load_params(str(run / 'shapes'))  # the newest checkpoint of the stage
nets = (weights['params']['classifier'], weights['model_state']['classifier'])
classify = functools.partial(make, *nets)

truth = np.tri(config.shapes.size, dtype=bool)[None]  # [B, H, W]: a triangle in the whole box
box, target = np.ones_like(truth), np.array([1])
for name, other in {'mirrored': truth[:, :, ::-1], 'itself': truth}.items():
    iou = shape.target_iou(other.astype(int), truth.astype(int), target, box)
    print(f'{name}: Sem {sem.sem(classify, other, truth, box)[0]:.4f}, tIOU {iou[0]:.4f}')
