"""`make bench`: every side-by-side measurement on one build, one after the other.

python -m benchmarks --build build/demo
"""

import argparse
import subprocess
import sys
from pathlib import Path

MEASUREMENTS = ("bench_cross_encoder", "bench_llm")


def main() -> int:
    """Run each measurement; the exit status is that of the worst."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--build", type=Path, default=Path("build/demo"), help="a finished build (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if not (arguments.build / "manifest.json").exists():
        print(f"no build in {arguments.build}; run `make demo` first", file=sys.stderr)
        return 1
    status = 0
    for name in MEASUREMENTS:
        print(f"\n== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", "--build", str(arguments.build)]
        status = max(status, subprocess.run(command, check=False).returncode)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
