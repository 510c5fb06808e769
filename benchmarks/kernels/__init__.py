"""`make bench-kernels`: each kernel against plain torch, torch.compile and the best library call, in one run."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The references that the kernels are measured against are those that they are tested against.
sys.path.insert(0, str(ROOT / "tests/kernels"))
