"""Generators and discriminators of adversarial training."""
