"""One module of the benchmarks in a process of its own: a fault of the GPU ends this process only."""

import argparse
import importlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.kernels.limits import DeviceLimits
from benchmarks.kernels.report import append_csv
from benchmarks.kernels.run import Row, check, run

HEADLINE = "packed_cross_encoder"
BENCHMARKS = (
    HEADLINE,
    "packed_ranker",
    "packed_bi_encoder",
    "scan_top_k",
    "packed_attention",
    "layer_norms",
    "gelu_bias",
    "margin_scores",
    "fuse_top_k",
    "margin_mse_loss",
    "decoder_kernels",
)
"""The headline first: a run that is cut short has what matters most."""
ROWS, CHECKS, LIMITS, ACCURACY = "bench.csv", "checks.csv", "limits.json", "accuracy.json"
_NOTHING = float("nan")


def machine() -> str:
    """GPU and versions."""
    import triton

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU, interpreted"
    return f"{name}, torch {torch.__version__}, triton {triton.__version__}"


def limits_of(folder: Path) -> DeviceLimits:
    """Limits of the GPU, measured by the first process of a run; infinite without a GPU."""
    path = folder / LIMITS
    if path.exists():
        return DeviceLimits(**json.loads(path.read_text(encoding="utf-8")))
    if not torch.cuda.is_available():
        return DeviceLimits(math.inf, math.inf)
    from benchmarks.kernels.limits import measure_limits

    limits = measure_limits()
    path.write_text(json.dumps(asdict(limits)), encoding="utf-8")
    return limits


def check_module(name: str, small: bool, write: Callable[[Path, Row], None], folder: Path) -> None:
    """Compare all implementations of a module; raises ValueError if one has another result."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for case in importlib.import_module(f"benchmarks.kernels.bench_{name}").cases(device, small=small):
        for implementation, error in check(case).items():
            none = (_NOTHING, _NOTHING, _NOTHING, 0, 0.0, "none", 0.0)
            row = Row(case.kernel, case.size, case.scale, implementation, "checked", *none, error)
            write(folder / CHECKS, row)


def bench_module(name: str, small: bool, write: Callable[[Path, Row], None], folder: Path) -> None:
    """Time all cases of a module; without a GPU only check them, which is what a dry run does."""
    if not torch.cuda.is_available():
        check_module(name, small, lambda _, row: write(folder / ROWS, row), folder)
        return
    module, limits = importlib.import_module(f"benchmarks.kernels.bench_{name}"), limits_of(folder)
    for case in module.cases("cuda", small=small):
        torch._dynamo.reset()
        for row in run(case, limits):
            write(folder / ROWS, row)
    if name == HEADLINE:
        figures = module.accuracy("cuda", **({"queries": 2, "candidates": 12, "name": "tiny"} if small else {}))
        (folder / ACCURACY).write_text(json.dumps(figures), encoding="utf-8")


def main() -> int:
    """Run one module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels.worker", description=main.__doc__)
    parser.add_argument("kind", choices=("check", "bench"))
    parser.add_argument("module", choices=BENCHMARKS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--commit", default="")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    key, limits = re.sub(r"[\n,]+", " ", machine()), limits_of(options.out)

    def write(path: Path, row: Row) -> None:
        append_csv(path, row, key, options.commit, limits)
        print(
            f"{row.kernel:<22}{row.size:<58}{row.implementation:<16}{row.launch:<8}{row.p50_us:>10.1f} us "
            f"{100 * row.share:>6.1f} % error {row.error:.1e} {row.note}",
            flush=True,
        )

    {"check": check_module, "bench": bench_module}[options.kind](options.module, options.small, write, options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
