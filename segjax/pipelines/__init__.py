"""The registry of pipelines. Each paper is one file, and `config.pipeline` is its name."""

import importlib
from collections.abc import Mapping
from types import ModuleType

import ml_collections

from segjax.errors import unknown_name
from segjax.protocol import Derived, Stage
from segjax.spec import DataSpec

REGISTRY = {
    'learned_dilation': 'segjax.pipelines.learned_dilation',
    'noise_cyclegan': 'segjax.pipelines.noise_cyclegan',
    'scene_geometry': 'segjax.pipelines.scene_geometry',
    'supervised': 'segjax.pipelines.supervised',
}


def load(name: str) -> ModuleType:
    """Returns the module of a pipeline, which exports make_stages(config, spec) and SCHEMA.

    Raises:
      InputError: unknown name, with the nearest name that exists.
    """
    if name not in REGISTRY:
        raise unknown_name('config.pipeline', name, REGISTRY)
    return importlib.import_module(REGISTRY[name])


def make_stages(
    config: ml_collections.ConfigDict, specs: Mapping[str, DataSpec]
) -> tuple[Stage, ...]:
    """Returns the stages of `config.pipeline`.

    Args:
      config: valid.
      specs: by config section: the data sets of the run. 'data' is the main data set.
    """
    main, further = _main_and_further(specs)
    return load(config.pipeline).make_stages(config, main, **further)


def make_features(
    config: ml_collections.ConfigDict, specs: Mapping[str, DataSpec]
) -> tuple[Derived, ...]:
    """Returns the features that `config.pipeline` derives from the records, () for most pipelines.

    Args:
      config: valid.
      specs: by config section: the data sets of the run, without derived features.
    """
    module = load(config.pipeline)
    if not hasattr(module, 'make_features'):
        return ()
    main, further = _main_and_further(specs)
    return module.make_features(config, main, **further)


def _main_and_further(specs: Mapping[str, DataSpec]) -> tuple[DataSpec, dict[str, DataSpec]]:
    """Returns the main data set, and the remaining data sets by config section."""
    return specs['data'], {name: spec for name, spec in specs.items() if name != 'data'}
