"""How predictions of a clip are pooled: `config.predict.pooling`, checked and made ready."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from segjax.data import flow, regions
from segjax.errors import InputError, unknown_name
from segjax.protocol import Derived
from segjax.spec import ClassMap, ClassSpec, DataSpec

NONE = 'none'
SUPERPIXEL = 'superpixel'
PIXEL = 'pixel'
KEY = 'config.predict.pooling'
HIERARCHY = 'hierarchy'


class ClipSettings(NamedTuple):
    """How the frames of a clip are pooled.

    use          'superpixel', 'full' or 'pixel'
    regions      feature of a frame: its superpixels, of colour or of colour and depth. None:
                 'pixel'
    flow         feature of a frame: its flow to another frame. None: 'superpixel'
    num_regions  largest number of regions of a frame
    past         frames of a window before the target
    future       frames of a window after the target
    interval     distance of neighbouring frames of a window
    options      further arguments of `clip_pooling.pool_stream`
    classes      of the results
    merge        of the predicted classes into `classes`. None: they are the same
    """

    use: str
    regions: Derived | None
    flow: Derived | None
    num_regions: int
    past: int
    future: int
    interval: int
    options: Mapping[str, Any]
    classes: ClassSpec
    merge: ClassMap | None


def is_pooled(config: ml_collections.ConfigDict) -> bool:
    """Returns whether predictions are pooled over a clip.

    Raises:
      InputError: a class map without pooling.
    """
    settings = config.predict.pooling
    if settings.use == NONE and settings.merge:
        raise InputError(
            f'{KEY}.merge',
            got=f'{settings.merge!r} without pooling',
            expected="'', or predictions of a clip",
            fix=f"--{KEY}.merge=''",
        )
    return settings.use != NONE


def make_clip_settings(
    config: ml_collections.ConfigDict, spec: DataSpec, has_depth: bool = False
) -> ClipSettings:
    """Builds the pooling that a config describes.

    Args:
      config: of the run.
      spec: of the data set.
      has_depth: whether the frames have depth.

    Raises:
      InputError: a distance that no frame has, an unknown class map, or a missing package.
    """
    settings = config.predict.pooling
    has_frames = settings.use != SUPERPIXEL
    if has_frames and settings.reach < settings.interval:
        raise InputError(
            f'{KEY}.reach',
            got=f'{settings.reach} with an interval of {settings.interval}',
            expected='at least the interval, so that a window has several frames',
            fix=f'--{KEY}.reach={settings.interval}',
        )
    merge = _class_map(settings.merge, spec)

    # A hierarchy alone has a threshold.
    region_map = None
    if settings.use != PIXEL:
        cut = settings.region_threshold
        options = {'threshold': cut} if settings.region_method == HIERARCHY else {}
        method = settings.region_method
        options |= {'depth': has_depth and settings.region_depth}
        region_map = regions.region_feature(method, num_regions=settings.num_regions, **options)
    steps = settings.reach // settings.interval if has_frames else 0
    return ClipSettings(
        use=settings.use,
        regions=region_map,
        flow=flow.flow_to(
            settings.interval, method=settings.flow_method, preset=settings.flow_preset
        )
        if has_frames
        else None,
        num_regions=settings.num_regions,
        past=steps,
        future=steps if settings.direction == 'both' else 0,
        interval=settings.interval if has_frames else 1,
        options={
            'mode': settings.use,
            'reading': settings.reading,
            'threshold': settings.match_threshold,
            'spatial': settings.spatial,
            'temporal': settings.temporal,
        },
        classes=merge.classes if merge else spec.classes,
        merge=merge,
    )


def _class_map(name: str, spec: DataSpec) -> ClassMap | None:
    """Returns a class map of a data set, None for ''.

    Raises:
      InputError: the data set does not offer the class map.
    """
    if not name:
        return None
    if name in spec.class_maps:
        return spec.class_maps[name]
    if spec.class_maps:
        raise unknown_name(f'{KEY}.merge', name, spec.class_maps)
    raise InputError(
        f'{KEY}.merge',
        got=f'{name!r} with data set {spec.name!r}, which offers no class map for these classes',
        expected="'', or classes that are not merged yet",
        fix=f"--{KEY}.merge=''",
    )
