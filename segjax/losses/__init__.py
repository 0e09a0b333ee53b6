"""Losses: pure functions from arrays to `protocol.Mean`s; float32 inside, whatever the dtype of the nets."""
