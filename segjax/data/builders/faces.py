"""The procedural world `faces` as a data set."""

import pathlib
from typing import Any

from segjax.data import face_points, image_files
from segjax.data.builders import base, rendered
from segjax.data.builders.base import Inspection, Item, Record
from segjax.data.builders.rendered import RenderedStills
from segjax.data.labels import FACE_PARTS
from segjax.data.worlds import faces

_FOLDER = pathlib.Path(faces.__file__).parent


class Faces(RenderedStills):
    """Human faces with 68 landmarks `points_face`, and a label of their parts.

    The appearance of a face is independent of its landmarks. segjax/data/worlds/faces/looks.py
    lists the factors of the appearance.
    """

    sources = rendered.sources_of(
        (_FOLDER, '*.py'),
        (_FOLDER.parent / 'streets', 'scene.py'),
        (_FOLDER.parent / 'studio', '*.py'),
    )

    def __init__(self, config: Any):
        super().__init__(config)
        self.classes = FACE_PARTS
        self.declared = {'points_face': face_points.FEATURE}

    def features(self, items):
        """Returns the features of every face."""
        return ('image', 'label', 'points_face', 'name')

    def examine(self, item: Item) -> Inspection:
        """Renders a face and encodes its maps."""
        face = faces.face(self.seed, item.split, item.frame, self.size)
        features = base.text_features(item)
        for key in ('image', 'label'):
            features[key] = image_files.encode_png(face[key])
        features['points_face'] = face['points']
        label = face['label']
        return Inspection(Record(features, base.histogram(label), label.shape), [])
