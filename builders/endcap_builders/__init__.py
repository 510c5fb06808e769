"""From a catalogue to a Triton model repository."""

import os

# OpenMP's threads spin while they wait, which on a machine that does anything else costs more than the work itself
# (training ran nine times slower beside one other process). Has to be set before torch loads OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
