"""Metrics: sums on the device as `protocol.Mean`s, and functions on the host that score them."""
