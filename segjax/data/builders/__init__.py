"""The data sets by name. A new data set is a class in its own file and a line in this table."""

from typing import Any

from segjax.data.builders import (
    ade20k,
    apolloscape,
    bdd100k,
    camvid,
    cityscapes,
    coco_panoptic,
    faces,
    folder,
    heads,
    landmark_folder,
    lfw,
    nyu_depth,
    oxford_pet,
    rgbd_folder,
    rooms,
    scannet,
    streets,
    sun3d,
    synscapes,
    vistas,
)
from segjax.data.builders.base import Dataset
from segjax.errors import unknown_name

REGISTRY = {
    'ade20k': ade20k.SceneParsing,
    'ade20k_bedroom': ade20k.Bedrooms,
    'apolloscape': apolloscape.Apolloscape,
    'apolloscape_stereo': apolloscape.ApolloscapeStereo,
    'bdd100k': bdd100k.Bdd100k,
    'camvid': camvid.CamVid,
    'cityscapes': cityscapes.Cityscapes,
    'cityscapes_all': cityscapes.CityscapesAll,
    'cityscapes_coarse': cityscapes.CityscapesCoarse,
    'cityscapes_video': cityscapes.CityscapesVideo,
    'coco_panoptic': coco_panoptic.CocoPanoptic,
    'faces': faces.Faces,
    'folder': folder.Folder,
    'heads': heads.Heads,
    'landmark_folder': landmark_folder.LandmarkFolder,
    'lfw': lfw.Lfw,
    'nyu_depth': nyu_depth.NyuDepth,
    'oxford_pet': oxford_pet.OxfordPet,
    'rgbd_folder': rgbd_folder.RgbdFolder,
    'rooms': rooms.Rooms,
    'scannet': scannet.ScanNet,
    'streets': streets.Streets,
    'sun3d': sun3d.Sun3d,
    'synscapes': synscapes.Synscapes,
    'vistas': vistas.Vistas,
    'vistas_v2': vistas.VistasV2,
}


AROUND_TARGETS = ('nyu_depth', 'rgbd_folder', 'sun3d')
"""Data sets whose clips have the frames at multiples of `rgbd.interval` around a labelled frame."""


def load(config: Any) -> Dataset:
    """Returns the data set that `config.data` names.

    Raises:
      InputError: an unknown name, or options that do not fit the data set, as a missing folder.
    """
    if config.name not in REGISTRY:
        raise unknown_name('config.data.name', config.name, REGISTRY)
    return REGISTRY[config.name](config)
