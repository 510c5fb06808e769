"""`make bench-kernels`: on a GPU, measure all cases; without one, compile all kernels and report that.

Writes benchmarks/kernels/results/<GPU and versions>.csv, plots beside it, and the table in docs/kernels.md. The last
line of the output is one JSON document.
"""

import argparse
import importlib
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.kernels import ROOT

BENCHMARKS = (
    "margin_mse_loss",
    "margin_scores",
    "fuse_top_k",
    "layer_norms",
    "gelu_bias",
    "packed_attention",
    "packed_cross_encoder",
)


def main(arguments: list[str] | None = None) -> int:
    """Run; the exit status is 0 unless one of our kernels fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=BENCHMARKS, default=BENCHMARKS, help="these benchmarks")
    parser.add_argument("--checkpoint", type=Path, help="a trained cross-encoder for packed_cross_encoder")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/kernels/results", help="where the CSV goes")
    parser.add_argument("--no-document", action="store_true", help="leave docs/kernels.md as it is")
    parser.add_argument("--compile", nargs="*", metavar="CASE", help="without a GPU, compile these cases only")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(
            "There is no GPU here, so nothing is measured; kernels are compiled for sm_80 and sm_90 only.", flush=True
        )
        chosen = ["--cases", *options.compile] if options.compile else []
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        command = [sys.executable, "-m", "endcap_kernels.compilation", *chosen]
        return subprocess.run(command, env=environment, check=False).returncode
    return measure_all(options)


def machine_key() -> str:
    """File name made of the GPU and the versions."""
    import triton

    text = f"{torch.cuda.get_device_name()} torch-{torch.__version__} triton-{triton.__version__}"
    return re.sub(r"[^A-Za-z0-9.+]+", "-", text)


def measure_all(options: argparse.Namespace) -> int:
    """Measure the limits, then all cases; write the measured rows even if a later case fails."""
    from benchmarks.kernels.limits import measure_limits
    from benchmarks.kernels.report import markdown_table, plot, update_document, write_csv
    from benchmarks.kernels.run import Row, run

    limits, key, rows, failures = measure_limits(), machine_key(), list[Row](), list[str]()
    described = (
        f"{key}: copies {limits.copy_bytes_per_s / 1e12:.2f} TB/s, multiplies bfloat16 matrices at "
        f"{limits.bf16_operations_per_s / 1e12:.0f} TFLOP/s (Python {platform.python_version()})"
    )
    print(described, flush=True)
    figures: dict[str, float] = {}
    for name in options.only:
        module = importlib.import_module(f"benchmarks.kernels.bench_{name}")
        special = {"checkpoint": options.checkpoint} if name == "packed_cross_encoder" else {}
        try:
            for case in module.cases("cuda", **special):
                torch._dynamo.reset()
                for row in run(case, limits):
                    rows.append(row)
                    print(
                        f"{row.kernel:<22}{row.size:<58}{row.implementation:<16}{row.launch:<7}"
                        f"{row.p50_us:>10.1f} us {100 * row.share:>6.1f} % {row.note}",
                        flush=True,
                    )
            if name == "packed_cross_encoder":
                figures = module.accuracy("cuda", checkpoint=options.checkpoint)
                print("accuracy", figures, flush=True)
        except Exception as error:  # the other benchmarks still run, and rows measured so far are kept
            failures.append(f"{name}: {error}")
            print(f"FAILED {failures[-1]}", file=sys.stderr, flush=True)
    path = write_csv(options.results, key, rows, limits)
    plot(options.results / key, rows)
    if not options.no_document:
        text = f"{described}\n\n{markdown_table(rows)}\n\n{_accuracy_line(figures)}"
        update_document(ROOT / "docs/kernels.md", text)
    print(json.dumps({"csv": str(path), "limits": asdict(limits), "accuracy": figures, "failures": failures}))
    return 1 if failures else 0


def _accuracy_line(figures: dict[str, float]) -> str:
    if not figures:
        return "Accuracy in bfloat16: not measured in this run."
    return (
        f"bfloat16 against float32, {figures['queries']:.0f} queries of 100 products: relative error packed "
        f"{figures['packed_error']:.4f}, plain torch {figures['plain_error']:.4f}; same top 10 packed "
        f"{100 * figures['packed_same_top_10']:.1f} %, plain torch {100 * figures['plain_same_top_10']:.1f} %."
    )


if __name__ == "__main__":
    raise SystemExit(main())
