"""The run without training that the tests of --mode export share."""

from predicting import toy

__all__ = ['toy']
