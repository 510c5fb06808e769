"""Runs the parts of a plan against one server, and collects the results in a report."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from endcap_builders.machine import machine as described
from endcap_client import Client
from endcap_server.stages.status import read_versions
from rich.console import Console

from benchmarks import machine
from benchmarks.baseline import Baseline
from benchmarks.breakdown import breakdown
from benchmarks.compare import FORMAT, compare, in_blocks
from benchmarks.engine_calls import engine_shares, stage_runs
from benchmarks.inprocess import InProcessAnswer
from benchmarks.load_part import KINDS, LoadPart
from benchmarks.plan import Plan
from benchmarks.processes import Elsewhere, ProcessTree
from benchmarks.replay import Replay, ReplayedRequest
from benchmarks.serving import Served, served, wait_ready
from benchmarks.side_by_side import compared, served_answer, take_turns
from benchmarks.targets import targets

_PATIENT_MS = 30_000
"""Budget in the comparison of speed with the baseline, which does not degrade."""


def run(plan: Plan, command: str, base: Mapping[str, Any] | None = None, quick: bool = False) -> dict[str, Any]:
    """Run a plan; return the report.

    Args:
        plan: Parts and amounts.
        command: The command line that repeats the run, for the report.
        base: An earlier report to compare with; the open loop then visits its rates.
        quick: Whether this is the short run, for the report.

    Raises:
        LaunchError: The server does not start.
        ReplayError: The catalogue has nothing to replay.
        RuntimeError: The load generator or the baseline failed.
    """
    say = _progress(plan)
    if base and not plan.rates and base.get("load"):
        plan = replace(plan, rates=tuple(point["rate"] for point in base["load"]["open_loop"]))
    plan.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    report: dict[str, Any] = {
        "format": FORMAT,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "revision": machine.revision(Path(__file__).parent),
        "plan": _plan_document(plan, quick),
        "machine": described(),
        "build_versions": read_versions(plan.build),
        "series": {},
        "yardstick_ms": [],
    }
    elsewhere = Elsewhere()
    if set(plan.parts) - {"engines", "relevance"}:
        _server_parts(plan, report, say)
    if "engines" in plan.parts:
        # The server must not run here: its processes would share the cores.
        report["engines"] = _engines_part(plan, say)
    if "relevance" in plan.parts:
        say("order of search results on held-out queries")
        report["relevance"] = _measurement("bench_relevance", relevance_options(plan))
    report.setdefault("versions", machine.versions())
    report.setdefault("busy_elsewhere_cores", elsewhere.cores())
    report["targets"] = [row.document() for row in targets(report)]
    if base:
        report["comparison"] = compare(report, base, plan.seed)
    report["seconds"] = round(time.monotonic() - started, 1)
    return report


def _server_parts(plan: Plan, report: dict[str, Any], say: Callable[[str], None]) -> None:
    """Run the parts that need a server, and add them to the report."""
    replay = Replay(plan.catalogue, plan.seed)
    say("waiting for the server")
    with served(plan.build, plan.address, plan.out, plan.key_file) as server:
        wait_ready(server.address)
        report["versions"] = machine.versions(server.version)
        report["server"] = {"address": server.address, "started_by_the_run": server.own}
        elsewhere = Elsewhere(None if server.own else server.processes)
        baseline_mb = _baseline_part(plan, server, replay, report, say) if "baseline" in plan.parts else None
        if "load" in plan.parts:
            _load_part(plan, server, replay, report, say)
        if server.processes and "load" in plan.parts:
            report["memory"] = report["load"]["open_loop"][-1]["use"] | {"baseline_pss_mb": baseline_mb}
        if "profile" in plan.parts:
            report["profile"] = _profile_part(plan, server, replay, say)
        report["busy_elsewhere_cores"] = elsewhere.cores()


def _baseline_part(
    plan: Plan, server: Served, replay: Replay, report: dict[str, Any], say: Callable[[str], None]
) -> float:
    """Compare system and baseline in alternation; return the baseline's memory in MB."""
    say("loading the naive baseline")
    requests: list[ReplayedRequest] = []
    for page, search in zip(replay.storefronts(plan.pages), replay.searches(plan.pages), strict=True):
        requests += [page, search]
    requests += replay.searches(max(0, plan.searches - plan.pages))
    with Client(server.address) as client, Baseline(plan.build, plan.placements, plan.products) as baseline:
        warm = [*replay.storefronts(2), *replay.searches(2)]
        done = 0

        def ask(request: ReplayedRequest) -> InProcessAnswer:
            return served_answer(client, request, plan.placements, plan.products, _PATIENT_MS)

        def progress() -> None:
            nonlocal done
            done += 1
            if done % 4 == 0:
                say(f"system and baseline in turns, {done} of {len(requests)}")

        take_turns(warm, ask, baseline)
        report["yardstick_ms"].append([machine.yardstick() for _ in range(5)])
        turns = take_turns(requests, ask, baseline, progress)
        memory_mb = ProcessTree(baseline.pid).use()
    report["baseline"] = compared(turns, plan.seed)
    for name, row in report["baseline"]["speed"].items():
        rounds = in_blocks(row["system_samples_ms"])
        report["series"][f"{name.replace('_', ', ')}, in turns"] = {"unit": "ms", "rounds": rounds}
    return round(sum(use.pss_mb for use in memory_mb.values()), 1)


def _load_part(plan: Plan, server: Served, replay: Replay, report: dict[str, Any], say: Callable[[str], None]) -> None:
    part = LoadPart(plan, server, replay, say)
    load = part.run()
    report["yardstick_ms"] += part.yardstick_ms
    report["series"] |= load.pop("series")
    say("timing the engines' calls")
    clients = min(plan.concurrency)
    load["breakdown"] = {"clients": clients}
    for kind in KINDS:
        count = plan.engine_requests
        requests = replay.searches(count) if kind == "search" else replay.storefronts(count)
        runs = stage_runs(plan.build, server.triton, requests, plan.placements, plan.products)
        level = next(each for each in load["closed_loop"] if each["kind"] == kind and each["clients"] == clients)
        load["breakdown"][kind] = breakdown(kind, level, engine_shares(runs))
    report["load"] = load


def _profile_part(plan: Plan, server: Served, replay: Replay, say: Callable[[str], None]) -> dict[str, Any]:
    from benchmarks.trace import record

    files = []
    for request in (*replay.storefronts(1), *replay.searches(1)):
        say(f"tracing a {request.kind}")
        document = record(server, plan.build, request, plan.placements, plan.products)
        path = plan.out / f"profile-{request.kind}.json"
        path.write_text(json.dumps(document) + "\n", encoding="utf-8")
        files.append(path.name)
    return {"files": files}


def _engines_part(plan: Plan, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run the engines' own benchmarks, each in a process whose last line of output is one JSON document."""
    build = ["--build", str(plan.build)]
    say("cross-encoder beside sentence-transformers")
    encoder = _measurement("bench_cross_encoder", [*build, "--repeats", str(plan.engine_rounds)])
    say("students beside Hugging Face generate")
    students = _measurement("bench_llm", [*build, "--requests", str(plan.llm_requests)])
    rows = [{
        "engine": "cross_encoder",
        "against": f"sentence-transformers CrossEncoder.predict, {encoder['pairs']} pairs",
        "at_a_time": 4,
        "ratio": encoder["ratio"],
        "answers": f"Spearman {encoder['spearman']:.4f}",
    }]  # fmt: skip
    return rows + [
        {
            "engine": each["model"],
            "against": "Hugging Face generate + xgrammar, bf16, one batch",
            "at_a_time": each["at_a_time"],
            "ratio": each["ratio"],
            "answers": f"{each['valid']:.0%} valid, {each['same_text']:.0%} the same text",
        }
        for each in students["results"]
    ]


def relevance_options(plan: Plan) -> list[str]:
    """Run `bench_relevance`; return its figures."""
    counts = ["--max-queries", str(plan.relevance_queries), "--corpus-queries", str(plan.relevance_corpus)]
    return ["--build", str(plan.build), "--catalogue", str(plan.catalogue), *counts]


def _measurement(name: str, options: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    document: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return document


def _plan_document(plan: Plan, quick: bool) -> dict[str, Any]:
    document = asdict(plan) | {"quick": quick}
    return {name: str(value) if isinstance(value, Path) else value for name, value in document.items()}


def _progress(plan: Plan) -> Callable[[str], None]:
    """Shows the current part, the elapsed time, and the approximate duration of the run."""
    console, started = Console(stderr=True, highlight=False), time.monotonic()

    def say(what: str) -> None:
        passed = time.monotonic() - started
        console.print(f"[dim]{_clock(passed)} of about {_clock(max(plan.seconds(), passed))}[/dim]  {what}")

    return say


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
