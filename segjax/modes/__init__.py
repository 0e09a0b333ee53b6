"""Modules that `--mode` runs by their names, such as `--mode bench`."""
