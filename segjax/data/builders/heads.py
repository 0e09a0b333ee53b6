"""The procedural world `heads` as a data set."""

import pathlib
from typing import Any

from segjax.data import image_files
from segjax.data.builders import base, rendered
from segjax.data.builders.base import Inspection, Item, Record
from segjax.data.builders.rendered import RenderedStills
from segjax.data.labels import HEAD_PARTS
from segjax.data.worlds import heads

_FOLDER = pathlib.Path(heads.__file__).parent


class Heads(RenderedStills):
    """Heads of cats and dogs with exact normals, and a label of their parts.

    normals  unit vectors towards the camera, 0 on the backdrop. The appearance of a head is
             independent of them. segjax/data/worlds/heads/looks.py lists its factors
    """

    sources = rendered.sources_of(
        (_FOLDER, '*.py'),
        (_FOLDER.parent / 'streets', 'scene.py'),
        (_FOLDER.parent / 'studio', '*.py'),
        (_FOLDER.parent, 'textures.py'),
    )

    def __init__(self, config: Any):
        super().__init__(config)
        self.classes = HEAD_PARTS

    def features(self, items):
        """Returns the features of every head."""
        return ('image', 'label', 'normals', 'name')

    def examine(self, item: Item) -> Inspection:
        """Renders a head and encodes its maps."""
        head = heads.head(self.seed, item.split, item.frame, self.size)
        features = base.text_features(item)
        for key in ('image', 'label'):
            features[key] = image_files.encode_png(head[key])
        features['normals'] = head['normals']
        label = head['label']
        return Inspection(Record(features, base.histogram(label), label.shape), [])
