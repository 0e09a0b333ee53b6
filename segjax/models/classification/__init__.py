"""Nets that classify whole images and shapes."""
