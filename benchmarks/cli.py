"""`endcap bench`, `python -m benchmarks` and `make bench`: the options of a run, and its output."""

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from endcap_client import numbers

from benchmarks.plan import PARTS, Part, Plan

DESCRIPTION = (
    "Measure a build: both ensembles under load, beside a naive baseline in one Python process, with a report that "
    "says what was to be reached and what was. Starts a server if none of this build runs. About ten minutes on two "
    "cores; --quick takes two or three."
)


def add_bench_command(subparsers: Any) -> None:
    """Add `endcap bench` to the command line."""
    parser = subparsers.add_parser("bench", help="measure a build and write a report", description=DESCRIPTION)
    _add_options(parser)
    parser.set_defaults(run=_run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=DESCRIPTION)
    _add_options(parser)
    return _run(parser.parse_args(arguments))


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--build", type=Path, default=Path("build/demo"), metavar="DIR", help="a build (default: %(default)s)")
    add("--catalogue", type=Path, metavar="DIR", help="whose shoppers and searches are replayed (default: the build's)")
    add("--address", default="", metavar="HOST:PORT", help="gRPC port of a running server (default: find or start one)")
    add(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="control key of a running server (default: the build's control.key)",
    )
    add("--out", type=Path, default=Path("benchmarks/out"), metavar="DIR", help="of the report (default: %(default)s)")
    add("--quick", action="store_true", help="two or three minutes: figures to look at, not to quote")
    add(
        "--only",
        action="append",
        choices=get_args(Part),
        metavar="PART",
        help=f"one of {', '.join(PARTS)}; may be repeated",
    )
    add("--profile", action="store_true", help="also record a storefront and a search as traces (Perfetto, Chrome)")
    add("--requests", type=numbers.count, metavar="N", help="pages, and searches, in turns with the baseline")
    add(
        "--rates",
        type=numbers.listed(numbers.number(0, 100_000, above=True)),
        metavar="R,R,...",
        help="open loop: arrivals a second (default: by capacity)",
    )
    add(
        "--concurrency",
        type=numbers.listed(numbers.whole(1, 1_000)),
        metavar="N,N,...",
        help="closed loop: clients (default: 1,2,4,8)",
    )
    add("--seconds", type=numbers.seconds, metavar="S", help="length of each phase of load (default: 5 to 10)")
    add(
        "--budget-ms",
        type=numbers.milliseconds,
        default=Plan.budget_ms,
        metavar="N",
        help="until when an answer is worth something (default: %(default)s)",
    )
    add("--seed", type=numbers.seed, default=Plan.seed, help="of the requests drawn (default: %(default)s)")
    add("--base", type=Path, metavar="FILE", help="report.json of an earlier run to compare with")


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options describe.

    Raises:
        ValueError: An option is missing, or options conflict.
    """
    manifest = options.build / "manifest.json"
    if not manifest.exists():
        raise ValueError(f"no build in {options.build}: expected {manifest}; run `make demo`, or name one with --build")
    catalogue = options.catalogue or Path(json.loads(manifest.read_text(encoding="utf-8"))["catalogue"]["folder"])
    parts: list[Part] = options.only or [part for part in PARTS if part != "profile"]
    if options.profile:
        parts = [*parts, "profile"]
    plan = Plan(
        build=options.build,
        catalogue=catalogue,
        out=options.out,
        address=options.address,
        key_file=options.key_file,
        seed=options.seed,
        parts=tuple(part for part in PARTS if part in parts),
        budget_ms=options.budget_ms,
    )
    if options.quick:
        plan = plan.quick()
    if options.requests:
        plan = plan.with_requests(options.requests)
    if options.seconds:
        plan = plan.with_seconds(options.seconds)
    return plan.with_load(options.rates or (), options.concurrency or plan.concurrency)


def _run(options: argparse.Namespace) -> int:
    # Treated like Ctrl-C, so that the run also stops its server and helper processes.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _measure(options)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("benchmarks", "endcap_server"):
            raise
        advice = "install what it needs with pip install 'endcap[build,bench]', or run `make setup`"
        print(f"endcap bench: the Python package {error.name!r} is not installed here; {advice}", file=sys.stderr)
    except KeyboardInterrupt:
        print("endcap bench: stopped before the report was written", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 1


def _measure(options: argparse.Namespace) -> int:
    from endcap_client import EndcapError
    from endcap_server.launch import LaunchError

    from benchmarks.compare import ReportError, read_report
    from benchmarks.replay import ReplayError
    from benchmarks.report import write_report
    from benchmarks.run import run

    try:
        plan = plan_of(options)
        base = read_report(options.base) if options.base else None
        report = run(plan, repeat_command(options), base, options.quick)
    except (ValueError, ReplayError, ReportError, LaunchError, EndcapError, RuntimeError) as error:
        print(f"endcap bench: {error}", file=sys.stderr)
        return 1
    paths = write_report(report, plan.out)
    _print(report, paths)
    return 0


def repeat_command(options: argparse.Namespace) -> str:
    """The command line of these options, without those that have their default."""
    words = ["python", "-m", "benchmarks", "--build", str(options.build), "--seed", str(options.seed)]
    for flag in ("quick", "profile"):
        words += [f"--{flag}"] if getattr(options, flag) else []
    for part in options.only or ():
        words += ["--only", part]
    for name in ("catalogue", "address", "key_file", "requests", "seconds", "base"):
        if value := getattr(options, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    for name in ("rates", "concurrency"):
        if value := getattr(options, name):
            words += [f"--{name}", ",".join(f"{each:g}" for each in value)]
    if options.budget_ms != Plan.budget_ms:
        words += ["--budget-ms", str(options.budget_ms)]
    return shlex.join(words)


def _print(report: dict[str, Any], paths: Sequence[Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="endcap benchmark", title_justify="left")
    for column in ("what", "target", "measured", "met"):
        table.add_column(column)
    said = {True: "[green]yes[/green]", False: "[red]no[/red]", None: "open"}
    for row in report["targets"]:
        table.add_row(row["name"], row["target"], row["measured"], said[row["met"]])
    console = Console()
    console.print(table)
    for row in report.get("comparison", {}).get("rows", ()):
        print(f"{row['series']}: {row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}] {row['verdict']}")
    for path in paths:
        print(path)
