"""`--mode compare`: one page that compares finished runs of segmentation.

The runs may differ in nets, sizes and pipelines. They must score the same images with the same
classes, at the same resolution. The page shows

    scores      that all runs share, with their differences from the first run
    differences of pixel accuracy and mIoU, with intervals that are paired by image
    curves      of training
    classes     the IoU by class, sorted by the difference from the first run
    histograms  that all runs have among their scores, such as learned dilation factors
    pictures    the same images, the truth, the predictions, and which prediction is right where

Scores are those of scores.json. Predictions are those that were scored: they are computed by the
evaluation of each run, not by the tiles of `--mode predict`. They are kept as files while the page
is made, and one net at a time is on the device.

    <output>/compare.html, scores.csv
    <output>/pictures/<group>_<rank>/{image, truth, prediction_<n>, right_1_<n>}.png, info.json
    <output>/pictures/<group>.png       all pictures of a group in a figure, an example a column
"""

from segjax.modes.compare.run import main

__all__ = ['main']
