"""Pretrained checkpoints: models that packages of the Python Package Index carry, and what a setting may name."""
