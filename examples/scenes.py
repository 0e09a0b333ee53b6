"""Renders driving scenes in the layout of the data set `folder`: `python scenes.py FOLDER COUNT`.

Prints the number of scenes of each split. Masks have the ids of Cityscapes, as label maps for the
prediction of semantic inpainting. The instances number the objects.
"""

import json
import pathlib
import sys

import numpy as np
from PIL import Image

from segjax.data.labels import CITYSCAPES
from segjax.data.worlds import streets

folder, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
ids = np.zeros(256, np.uint8)
ids[: CITYSCAPES.num_classes] = CITYSCAPES.ids  # 0: no class
for split in ('train', 'val'):
    for clip in range(count):
        frame = streets.frame(0, split, clip, 0, (128, 256))
        maps = {'images': frame['image'], 'masks': ids[frame['label']]}
        for name, values in {**maps, 'instances': frame['instance']}.items():
            path = folder / name / split / f'{clip:04}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
    print(f'{split}: {count} scenes')
entries = [{'name': name, 'id': number} for name, number in zip(CITYSCAPES.names, CITYSCAPES.ids)]
(folder / 'classes.yaml').write_text(json.dumps({'classes': entries, 'ignore': [0]}))
