"""Segmentation nets: image to logits."""
