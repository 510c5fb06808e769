"""Export of trained checkpoints to what the engines run."""
