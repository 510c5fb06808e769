"""`make bench-kernels`: measure the kernels on a GPU; without one, compile them for sm_80 and sm_90.

`--call 1|2|3 --out DIR` is one of three short calls on a lent GPU: correctness and compute-sanitizer, speed, engines.
Without `--call`, speed is measured, and the result goes to benchmarks/kernels/results and docs/kernels.md. `--report
CSV` writes plots and the table in docs/kernels.md from an earlier result.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.kernels import ROOT

RESULTS = ROOT / "benchmarks/kernels/results"


def main(arguments: list[str] | None = None) -> int:
    """Run; the exit status is 0 unless something fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--call", type=int, choices=(1, 2, 3), help="one of the three short calls")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=540, help="most seconds of a call; default: %(default)s")
    parser.add_argument("--only", nargs="+", metavar="MODULE", help="calls 1 and 2: these modules only")
    parser.add_argument("--small", action="store_true", help="small sizes: a dry run, also on a CPU")
    parser.add_argument("--build", type=Path, help="call 3: a build of endcap")
    parser.add_argument("--report", type=Path, metavar="CSV", help="write plots and the table of docs/kernels.md")
    parser.add_argument("--compile", nargs="*", metavar="CASE", help="without a GPU, compile these cases only")
    options = parser.parse_args(arguments)
    if options.call == 3 and options.build is None:
        parser.error("--build: expected a build with --call 3, got none")
    if options.report:
        write_report(options.report)
        return 0
    import torch

    if options.call is None and not torch.cuda.is_available():
        return compile_only(options.compile or [])
    from benchmarks.kernels.calls import run_call
    from benchmarks.kernels.worker import BENCHMARKS, ROWS

    only = options.only or BENCHMARKS
    if unknown := set(only) - set(BENCHMARKS):
        parser.error(f"--only: expected some of {', '.join(BENCHMARKS)}, got {min(unknown)}")
    status = run_call(options.call or 2, options.out, options.seconds, options.small, options.build, only)
    if options.call is None and (options.out / ROWS).exists():
        write_report(options.out / ROWS)
    return status


def compile_only(cases: list[str]) -> int:
    """Compile kernels in a process that does not interpret them."""
    print("There is no GPU here, so nothing is measured; kernels are compiled for sm_80 and sm_90 only.", flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "endcap_kernels.compilation", *(["--cases", *cases] if cases else [])]
    return subprocess.run(command, env=environment, check=False).returncode


def write_report(path: Path) -> None:
    """Plots beside a CSV, and its table in docs/kernels.md."""
    from benchmarks.kernels.report import markdown_table, plot, read_csv, update_document
    from benchmarks.kernels.worker import ACCURACY

    machine, rows = read_csv(path)
    plot(path.parent / "plots", rows)
    accuracy = path.with_name(ACCURACY)
    line = accuracy_line(json.loads(accuracy.read_text(encoding="utf-8")) if accuracy.exists() else {})
    update_document(ROOT / "docs/kernels.md", f"{machine}\n\n{markdown_table(rows)}\n\n{line}")


def accuracy_line(figures: dict[str, float]) -> str:
    """What the document says about bfloat16."""
    if not figures:
        return "Accuracy in bfloat16: not measured in this run."
    return (
        f"bfloat16 against float32, {figures['queries']:.0f} queries: relative error packed "
        f"{figures['packed_error']:.4f}, plain torch {figures['plain_error']:.4f}; overlap of the top 10 packed "
        f"{100 * figures['packed_overlap_at_10']:.1f} %, plain torch {100 * figures['plain_overlap_at_10']:.1f} %."
    )


if __name__ == "__main__":
    raise SystemExit(main())
