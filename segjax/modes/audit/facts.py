"""Facts of the images that have nothing to do with a net, for the warning of `confound`."""

import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from segjax.data.builders.cityscapes import FRAME_NAME
from segjax.modes.audit.measure import Measured

Facts = Mapping[str, np.ndarray]
"""{name: [N] texts, or [N] or [N, D] numbers}."""

_FRAME = re.compile(r'(?P<clip>.*?)[_\-]?\d+')
"""A name that ends in the number of a frame."""

_ENDING = '_leftImg8bit'


def of_names(names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns what the names of images say of their place: 'sequence', and perhaps 'city'.

    Names of Cityscapes have a city and a sequence. In all further names, the sequence is the text
    before the number at the end, with the folder: 'clip_3/000120' and 'clip_3/000121' are frames of
    'clip_3/'.

    Args:
      names: of N images.

    Returns:
      {'city': [N], 'sequence': [N]}. A fact that is equal for all images, or different for all, is
      left out.
    """
    matches = [FRAME_NAME.fullmatch(pathlib.PurePath(n).name.removesuffix(_ENDING)) for n in names]
    facts = {}
    if all(matches):
        cities = [match['city'] for match in matches]
        facts['city'] = cities
        facts['sequence'] = [
            f'{city}_{match["sequence"]}' for city, match in zip(cities, matches, strict=True)
        ]
    else:
        facts['sequence'] = [_sequence(name) for name in names]
    return _telling({name: np.array(texts) for name, texts in facts.items()})


def _sequence(name: str) -> str:
    """Returns the folder and the text before the number of a frame."""
    folder, slash, last = name.rpartition('/')
    match = _FRAME.fullmatch(last)
    return folder + slash + (match['clip'] if match else last)


def _telling(facts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the texts that tell some images from further images."""
    telling = {}
    for name, texts in facts.items():
        if 1 < len(np.unique(texts)) < len(texts):
            telling[name] = texts
    return telling


def of_labels(measured: Measured) -> dict[str, np.ndarray]:
    """Returns the share of each class among the labelled pixels of each image, [N, C]."""
    pixels = measured.label_pixels
    return {'class_shares': pixels / pixels.sum(1, keepdims=True)}
