"""Metrics: device side sums, as `protocol.Mean`s, and the host side functions that turn them into scores."""
