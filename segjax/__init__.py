"""segjax: research systems for semantic segmentation, as pure functions in JAX."""

__version__ = '0.1.0'
