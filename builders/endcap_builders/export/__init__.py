"""Export of trained checkpoints to the formats of the engines."""
