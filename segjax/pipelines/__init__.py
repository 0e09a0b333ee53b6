"""The registry of pipelines: one file a paper. `config.pipeline` names one of them."""

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
    """The module of a pipeline: it exports make_stages(config, spec) and SCHEMA."""
    if name not in REGISTRY:
        raise unknown_name('config.pipeline', name, REGISTRY)
    return importlib.import_module(REGISTRY[name])
