"""From a catalogue to a Triton model repository."""
