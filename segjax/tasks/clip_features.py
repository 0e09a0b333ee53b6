"""The stored features of RGB-D clips: superpixels, optical flow, and correspondences.

He, Chiu, Keuper, Fritz: STD2P (CVPR 2017), chapter 3 of He's thesis. The features are computed once
from the records (segjax/data/derived.py), before a net is trained or tested:

    ids_region      superpixels of each frame. A hierarchy may have several levels
    flow_next       optical flow to the frame at `pooling.interval`, and `flow_previous` from it
    region_matches  for each labelled frame: the region of this frame, the target, to which every
                    region of its clip corresponds
    pixel_flows     for each labelled frame: the flow from its pixels to all frames of its clip
"""

from collections.abc import Sequence

import ml_collections

from segjax.data import correspondences
from segjax.data import edges as edge_methods
from segjax.data import flow as flow_lib
from segjax.data import regions as region_lib
from segjax.data.edges import EdgeMethod
from segjax.errors import InputError
from segjax.protocol import Derived
from segjax.schema import CLIP, Field, at_least, is_number, one_of, strings
from segjax.spec import DataSpec
from segjax.tasks import edges as hed_edges

REGION_IDS = 'ids_region'
"""Name of the region map of a frame."""
HIERARCHY = 'hierarchy'
EDGES = {'gradients': 0, 'structured': 1, 'hed': 2}
"""Boundary strengths, and the number of files that they need."""


# --- config keys ----------------------------------------------------------------------------------


def thresholds(value: Sequence) -> str | None:
    """Returns the expected form unless `value` has numbers from 0 to 1, from low to high."""
    is_fine = all(is_number(each) and 0 < each <= 1 for each in value)
    if not is_fine or not value or list(value) != sorted(set(value)):
        return 'numbers above 0, up to 1, from low to high, as (0.2,)'
    return None


REGIONS = {
    'method': CLIP['region_method'],
    'edges': Field('gradients', 'Boundary strength of a hierarchy.', one_of(*EDGES)),
    'edge_files': Field(
        (),
        'Files of the boundary strength: the model of structured edges, or the weights of '
        "VGG16 and of the side outputs of HED, as ('vgg.safetensors', 'sides.safetensors').",
        strings,
    ),
    'depth': Field(True, 'Whether superpixels see depth.'),
    'thresholds': Field(
        (0.2,),
        'Thresholds at which a hierarchy is cut, ascending. Pooled scores of several cuts are '
        'averaged (thesis, section 3.4.2).',
        thresholds,
    ),
    'num_regions': CLIP['num_regions'],
}
"""Config keys of the superpixels."""

FLOW = {'method': CLIP['flow_method'], 'preset': CLIP['flow_preset']}
"""Config keys of the optical flow."""

MATCHING = {
    'reading': CLIP['reading'],
    'threshold': CLIP['match_threshold'],
    'pixel_stride': Field(
        4, 'Distance of the pixels at which composed flow is stored.', at_least(1)
    ),
}
"""Config keys of the correspondences."""


# --- superpixels ----------------------------------------------------------------------------------


def region_features(settings: ml_collections.ConfigDict) -> tuple[Derived, ...]:
    """Returns the region maps of each frame, from fine to coarse.

    Args:
      settings: the keys REGIONS.

    Raises:
      InputError: an error of `boundary_strength`.
    """
    shared = {'depth': settings.depth, 'num_regions': settings.num_regions}
    if settings.method != HIERARCHY:
        return (region_lib.region_feature(settings.method, **shared),)
    shared['edges'] = boundary_strength(settings)
    if len(settings.thresholds) > 1:
        return region_lib.nested_features(settings.thresholds, **shared)
    threshold = settings.thresholds[0]
    return (region_lib.region_feature(HIERARCHY, threshold=threshold, **shared),)


def has_regions(settings: ml_collections.ConfigDict, spec: DataSpec) -> bool:
    """Returns whether a data set has the features that superpixels see.

    Args:
      settings: the keys REGIONS.
      spec: of the data set.
    """
    return not settings.depth or 'depth' in spec.features


def boundary_strength(settings: ml_collections.ConfigDict) -> EdgeMethod:
    """Returns the boundary strength of a hierarchy.

    Args:
      settings: the keys REGIONS.

    Raises:
      InputError: a wrong number of files, or a file that is absent.
    """
    files = settings.edge_files
    needed = EDGES[settings.edges]
    if len(files) != needed:
        raise InputError(
            'config.regions.edge_files',
            got=f'{len(files)} files for the edges {settings.edges!r}',
            expected=f'{needed} files',
            fix='--config.regions.edges=gradients'
            if needed
            else "--config.regions.edge_files='()'",
        )
    if settings.edges == 'hed':
        return hed_edges.hed(*files)
    if settings.edges == 'structured':
        return edge_methods.structured(*files)
    return edge_methods.gradients(settings.depth)


def level_names(settings: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the names of the region maps of a frame, from fine to coarse.

    Args:
      settings: the keys REGIONS.
    """
    if settings.method != HIERARCHY or len(settings.thresholds) == 1:
        return (REGION_IDS,)
    return tuple(f'{REGION_IDS}_{number}' for number in range(len(settings.thresholds)))


# --- frames of a clip -----------------------------------------------------------------------------


def is_video(spec: DataSpec) -> bool:
    """Returns whether the examples of a data set are frames of clips."""
    return 'frame' in spec.features


def flow_features(settings: ml_collections.ConfigDict, interval: int) -> list[Derived]:
    """Returns the optical flow of each frame to the frames at a distance after and before it.

    Args:
      settings: the keys FLOW.
      interval: the distance, in the numbering of the clip.
    """
    features = []
    for name, offset in (('flow_next', interval), ('flow_previous', -interval)):
        features.append(flow_lib.flow_to(offset, name, settings.method, settings.preset))
    return features


def match_features(config: ml_collections.ConfigDict) -> list[Derived]:
    """Returns the correspondences of regions between a target and its frames, for each level.

    Args:
      config: of the run, with the sections `regions`, `matching` and `pooling`.
    """
    features = []
    for level in level_names(config.regions):
        features.append(
            correspondences.match_feature(
                all_offsets(config.pooling),
                config.regions.num_regions,
                config.pooling.interval,
                config.matching.threshold,
                config.matching.reading,
                correspondences.Names(regions=level),
                matches_of(level),
            )
        )
    return features


def pixel_flow(config: ml_collections.ConfigDict, spec: DataSpec) -> Derived:
    """Returns the flow from the pixels of a target to its frames.

    Args:
      config: of the run, with the sections `matching` and `pooling`.
      spec: of the data set.
    """
    offsets = all_offsets(config.pooling)
    size = spec.split('+'.join(spec.max_size)).max_size
    stride = config.matching.pixel_stride
    return correspondences.pixel_flow_feature(offsets, size, config.pooling.interval, stride)


def all_offsets(settings: ml_collections.ConfigDict) -> tuple[int, ...]:
    """Returns the offsets of the frames whose regions are matched, in frames of the clip.

    Args:
      settings: section with the keys `reach` and `interval`.
    """
    steps = settings.reach // settings.interval
    return tuple(settings.interval * step for step in range(-steps, steps + 1))


def matches_of(level: str) -> str:
    """Returns the name of the matches of a region map."""
    return level.replace(REGION_IDS, 'region_matches')
