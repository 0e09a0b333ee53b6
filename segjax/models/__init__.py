"""Nets as pure functions of their parameters.

`build('segmentation', 'erfnet', ...)` returns a linen module.
"""

from segjax.models.registry import GIVEN, NETS, NO_NET, build, build_from, net_choice, schema

__all__ = ['GIVEN', 'NETS', 'NO_NET', 'build', 'build_from', 'net_choice', 'schema']
