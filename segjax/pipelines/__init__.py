"""The registry of pipelines. Each paper is one file, and `config.pipeline` is its name."""

import importlib
from types import ModuleType

from segjax.errors import unknown_name

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
