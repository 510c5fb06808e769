"""From a catalogue to a Triton model repository."""

import os

# OpenMP's threads spin for milliseconds while they wait. Beside any other work on the machine that costs more than it
# saves (training: 3 900 tokens/s instead of 10 000), and sleeping at once costs a fifth on an idle one (8 200).
# Has to be set before torch loads OpenMP.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
