"""The run without training that the tests of --mode predict share."""

from predicting import toy

__all__ = ['toy']
