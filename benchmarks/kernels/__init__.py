"""`make bench-kernels`: each kernel against plain torch, torch.compile and the best library call, in one run."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The benchmarks use the tests' reference implementations.
sys.path.insert(0, str(ROOT / "tests/kernels"))
