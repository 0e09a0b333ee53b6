"""segjax: research systems for semantic segmentation, as pure functions in JAX.

A room is loaded when it is first used. `import segjax` alone imports neither jax nor a data
library.

    import segjax
    segjax.losses.segmentation.cross_entropy(logits, label, weight)
    segjax.models.build('segmentation', 'erfnet', num_classes=19, dtype='float32', axis_name=None)
"""

import importlib
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segjax import (
        config,
        core,
        data,
        errors,
        losses,
        metrics,
        models,
        modes,
        ops,
        pipelines,
        pretrained,
        protocol,
        report,
        schema,
        spec,
        tasks,
        train,
    )

__version__ = '0.1.0'

__all__ = [
    'config',
    'core',
    'data',
    'errors',
    'losses',
    'metrics',
    'models',
    'modes',
    'ops',
    'pipelines',
    'pretrained',
    'protocol',
    'report',
    'schema',
    'spec',
    'tasks',
    'train',
]


def __getattr__(name: str) -> types.ModuleType:
    """Imports a room when it is first used (PEP 562)."""
    if name in __all__:
        return importlib.import_module(f'segjax.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    """Lists the rooms, loaded or not."""
    return [*__all__, '__version__']
