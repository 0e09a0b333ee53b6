"""Nets that find the boundaries of objects."""
