"""Nets, labels, losses, scores and pictures of a kind of task, shared by pipelines."""
