"""Ranks the classes of a data set by their objects: `python rank_objects.py [NAME ROOT MIN_SIDE]`.

Prints the number of training objects of each class whose longer side has MIN_SIDE pixels. Semantic
inpainting takes the first classes, e.g. of `ade20k_bedroom /data/ADE20K 32`.
"""

import sys

from segjax import config as config_lib
from segjax import data
from segjax.data import objects

config = config_lib.defaults('supervised')
config.data.world.update(num_train=8, num_val=1, size=(96, 192))  # of rendered streets alone
config.data.name = sys.argv[1] if len(sys.argv) > 1 else 'streets'
config.data.root = sys.argv[2] if len(sys.argv) > 2 else ''
min_side = float(sys.argv[3]) if len(sys.argv) > 3 else 16

dataset = data.prepare(config.data)
examples = dataset.open_split('train', ('label', 'instance'))
tables = [objects.find_objects(examples[i]) for i in range(len(examples))]
for name, number in objects.rank_classes(tables, dataset.spec.classes, min_side=min_side):
    print(f'{number:7d}  {name}')
