"""Procedural worlds: data sets that are rendered when they are prepared."""
