"""From a catalogue to a Triton model repository."""

import os

# OpenMP's threads spin for milliseconds while they wait. If other programs run on the machine, this slows training
# down (3 900 tokens/s instead of 10 000). Sleeping at once costs a fifth on an idle machine (8 200 tokens/s).
# This must be set before torch loads OpenMP.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
