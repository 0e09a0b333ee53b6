"""Writes contour maps of images: `python contours.py IMAGES OUT [VGG_FILE SIDE_FILE]`.

Prints the number of regions of each image at the threshold 0.2, and the seconds. OUT gets an
ultrametric contour map [2H - 1, 2W - 1] for each image (.npy). With two files of weights of HED
(segjax/tasks/edges.py), the net finds the boundaries. Without them, contrast of colour does.
"""

import pathlib
import sys
import time

import numpy as np

from segjax.data import edges, image_files, regions
from segjax.tasks.edges import hed

images, out = map(pathlib.Path, sys.argv[1:3])
method = hed(*sys.argv[3:5]) if len(sys.argv) > 3 else edges.gradients()

out.mkdir(parents=True, exist_ok=True)
for name, path in image_files.by_relative_name(images, ('.jpg', '.png')).items():
    image = image_files.read_image(path)
    start = time.perf_counter()
    tree = regions.image_hierarchy(image, method.compute({'image': image}))
    np.save(out / f'{name}.npy', tree.ucm())
    seconds = time.perf_counter() - start
    print(f'{name}: {tree.cut(0.2).max() + 1} regions, {seconds:.2f} s')
