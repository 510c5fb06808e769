"""Tests the guarantees of `endcap apply` on a real server under a constant stream of requests, and measures them.

    python -m benchmarks.apply_evidence --build build/test [--other build/demo] [--quick] [--part PART ...]

The guarantees:

- Each faulty edit is refused. No request fails, and answers do not change.
- Sequences of valid edits and of whole builds fail no request, mix no generations within a page, and do not increase
  the server's memory.
- A rollout that is killed at any step does not disturb the service, and the next rollout recovers from it.

The last line of the output is one JSON document. The exit status is 1 if a guarantee is broken.
"""

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from endcap_client import Client

from benchmarks.apply_bench import FAST, OTHER_PAGES, STRICT, Bench, bench
from benchmarks.apply_sources import FAULTY, GOOD, Edit, copy_build, other_build, parameter
from benchmarks.apply_traffic import TIMEOUT_S, Seen, ask

BASELINE_S = 15.0
KILLED_AT = [(step, when) for step in ("load", "compare", "switch", "watch", "unload") for when in ("before", "after")]
PARTS = ("faulty", "good", "builds", "killed", "latency")
_NEW_EVERY = 32
"""One request of so many is new: if caches answered all requests, a rollout would run on an almost idle server."""
_WARM, _FIRST_WARM = 300, 1_000_000
_KEPT = ("was_killed", "found_open", "served", "in_order")


def warm_up(bench: Bench, first: int) -> None:
    """Send requests, from number `first` on, until the engines' memory has reached its working size."""
    with Client(bench.server.grpc_address, timeout_s=TIMEOUT_S) as client:
        for number in range(first, first + _WARM):
            ask(client, bench.traffic.store, number, new=True)


def faulty(bench: Bench, edits: Sequence[Edit]) -> dict[str, Any]:
    """Each faulty edit is refused, and answers do not change."""
    before, live, found = bench.answers(), bench.standing.live, []
    for edit in edits:
        broken = copy_build(bench.source, bench.folder / "broken")
        edit.act(broken)
        outcome = bench.apply(broken, *STRICT)
        kept = bench.standing.live == live and not bench.standing.open
        found.append(
            {
                "edit": edit.name,
                "stopped": outcome.code == 1 and kept,
                "by": stopped_by(outcome.output),
                "expected": edit.stopped_by,
                "said": outcome.output.strip().splitlines()[-1][:200] if outcome.output.strip() else "",
            }
        )
        shutil.rmtree(broken)
    return {"edits": found, "answers_unchanged": bench.answers() == before, **counts(bench)}


def stopped_by(output: str) -> str:
    """The part of the rollout that refused the edit."""
    last = output.rpartition("endcap apply: ")[2]
    for words, part in (("lint found", "lint"), ("does not load", "load"), ("(", "compare")):
        if words in last:
            return part
    return "nothing"


def good(bench: Bench, edits: Sequence[Edit], *, warm: bool = False) -> dict[str, Any]:
    """A sequence of valid edits, each applied to the result of the previous one.

    With `warm`, engines serve requests for a while before memory is measured, after the first and after the last edit:
    an edit of an engine replaces a process that has grown with a new, smaller one.
    """
    memory, took = [], []
    for place, edit in enumerate(edits):
        edit.act(bench.source)
        outcome = bench.apply(bench.source, *FAST)
        if outcome.code:
            return {"failed_edit": edit.name, "said": outcome.output, **counts(bench)}
        if warm and place in (0, len(edits) - 1):
            warm_up(bench, _FIRST_WARM * (place + 1))
        memory.append(bench.memory_mb())
        took.append(outcome.ended - outcome.began)
    return {
        "rolled_out": len(edits),
        "median_s": round(float(np.median(took)), 1),
        **memory_figures(memory),
        **counts(bench),
    }


def builds(bench: Bench, number: int, others: Sequence[tuple[Path, str]]) -> dict[str, Any]:
    """A sequence of whole builds: every model and artefact changes."""
    memory, took = [], []
    bench.tags |= {str(bench.standing.live): ""}
    for each in range(number):
        folder, tag = others[each % len(others)]
        outcome = bench.apply(folder, *FAST, *OTHER_PAGES)
        if outcome.code:
            return {"failed_build": each, "said": outcome.output, **counts(bench)}
        bench.tags[str(bench.standing.live)] = tag
        memory.append(bench.memory_mb())
        took.append(outcome.ended - outcome.began)
    return {
        "builds": number,
        "median_s": round(float(np.median(took)), 1),
        **memory_figures(memory),
        **counts(bench),
    }


def killed(bench: Bench, at: Sequence[tuple[str, str]], first: int = 0) -> dict[str, Any]:
    """Rollouts whose process is killed; the next command, alternately apply and rollback, recovers."""
    found = []
    for number, (step, when) in enumerate(at, first):
        value = f"0.{30 + number}"
        edited = copy_build(bench.source, bench.folder / "edited")
        parameter("fusion", "ranker", value)(edited)
        before = bench.standing.live
        outcome = bench.apply(edited, *FAST, *OTHER_PAGES, kill=(step, when))
        there = bench.standing.open
        served = bench.answers()
        next_one = "rollback" if number % 2 else "apply"
        second = bench.run("rollback", *FAST) if number % 2 else bench.apply(edited, *FAST, *OTHER_PAGES)
        standing = bench.standing
        live = bench.state.read(standing.live)
        expected = set(live.models.values()) - set(live.public)
        found.append(
            {
                "step": step,
                "when": when,
                "was_killed": outcome.code == -signal.SIGKILL,
                "found_open": there != 0,
                "served": all(served),
                "next": next_one,
                "in_order": second.code == 0 and not standing.open and bench.loaded() == expected,
                "live": standing.live if next_one == "apply" else standing.live == before,
                "said": second.output.strip().splitlines()[:2],
            }
        )
        shutil.rmtree(edited)
    return {"kills": found, **counts(bench)}


def latency(bench: Bench, edit: Edit) -> dict[str, Any]:
    """p50 and p99 before and during a rollout with default settings."""
    edit.act(bench.source)
    began = time.monotonic()
    time.sleep(BASELINE_S)
    outcome = bench.apply(bench.source)
    before = bench.traffic.latencies(began, outcome.began)
    during = bench.traffic.latencies(outcome.began, outcome.ended)
    figures = {
        name: {f"p{q}_ms": round(1e3 * float(np.percentile(values, q)), 1) for q in (50, 99)} | {"answers": len(values)}
        for name, values in (("before", before), ("during", during))
    }
    ratio = figures["during"]["p99_ms"] / figures["before"]["p99_ms"]
    return {
        "edit": edit.name,
        "code": outcome.code,
        "seconds": round(outcome.ended - outcome.began, 1),
        **figures,
        "p99_ratio": round(ratio, 2),
    }


def memory_figures(memory: Sequence[dict[str, int]]) -> dict[str, Any]:
    """Memory after each rollout, and the growth between the first and the last."""
    total = [sum(each.values()) for each in memory]
    return {
        "memory_mb": total,
        "memory_growth": round(total[-1] / total[0] - 1, 4),
        "memory_change_mb": {name: memory[-1][name] - before for name, before in memory[0].items()},
    }


def counts(bench: Bench) -> dict[str, Any]:
    """Counts of the answers and errors so far."""
    traffic = bench.traffic
    wrong = [each for each in list(traffic.seen) if each.generation in bench.tags and not tagged(bench, each)]
    return {
        "answers": len(traffic.seen),
        "failed": len(traffic.failed),
        "first_failure": traffic.failed[0][1] if traffic.failed else "",
        "failed_at": [clock(at) for at, _ in traffic.failed[:50]],
        "mixed": traffic.mixed() + [f"generation {each.generation}: {each.products[:2]}" for each in wrong[:3]],
    }


def clock(at: float) -> str:
    """Convert a `time.monotonic` value to the time of day, in the format of the history."""
    return time.strftime("%H:%M:%SZ", time.gmtime(time.time() - time.monotonic() + at))


def tagged(bench: Bench, seen: Seen) -> bool:
    """Whether all products of an answer belong to the build of its generation."""
    tag = bench.tags[seen.generation]
    tags = [other for other in set(bench.tags.values()) if other]
    return all(each.startswith(tag) if tag else not each.startswith(tuple(tags) or "\0") for each in seen.products)


def evidence(build: Path, other: Path | None, quick: bool, parts: Sequence[str] = PARTS) -> dict[str, Any]:
    """Run the requested parts, each on a server of its own."""
    document: dict[str, Any] = {}
    for part in parts:
        with bench(build, new_every=_NEW_EVERY if part == "latency" else 0) as one:
            _note(document, part, _part(one, part, other, quick))
    return document


def _part(one: Bench, part: str, other: Path | None, quick: bool) -> dict[str, Any]:
    if part == "faulty":
        return faulty(one, FAULTY[::6] if quick else FAULTY)
    if part == "good":
        return good(one, GOOD[:3] if quick else GOOD, warm=not quick)
    if part == "builds":
        others = [(other_build(one.source, one.folder / "b", "b~"), "b~")]
        others.append((other, "") if other is not None else (other_build(one.source, one.folder / "c", "cc~"), "cc~"))
        return builds(one, 2 if quick else 5, others)
    if part == "killed":
        return killed(one, KILLED_AT[::4] if quick else KILLED_AT)
    edits = (GOOD[0],) if quick else (GOOD[0], GOOD[3], GOOD[7])
    return {"swaps": [latency(one, edit) for edit in edits], **counts(one)}


def _note(document: dict[str, Any], part: str, figures: dict[str, Any]) -> None:
    document[part] = figures
    print(f"{part}: {json.dumps(figures, ensure_ascii=False)}", flush=True)


def problems(document: dict[str, Any]) -> list[str]:
    """The guarantees that were broken."""
    found = []
    for part, figures in document.items():
        found += [f"{part}: {figures['failed']} failed requests: {figures['first_failure']}"] * bool(figures["failed"])
        found += [f"{part}: mixed pages: {each}" for each in figures["mixed"]]
        if not 0.95 <= 1 + figures.get("memory_growth", 0.0) <= 1.05:
            found.append(f"{part}: memory {figures['memory_mb']} MB")
        found += [f"{part}: {figures[each]}" for each in ("failed_edit", "failed_build") if each in figures]
        found += [f"not stopped: {each}" for each in figures.get("edits", ()) if not each.get("stopped", True)]
        if not figures.get("answers_unchanged", True):
            found.append(f"{part}: answers changed")
        found += [f"killed: {each}" for each in figures.get("kills", ()) if not all(each[name] for name in _KEPT)]
        found += [f"latency: {each}" for each in figures.get("swaps", ()) if each["code"] or each["p99_ratio"] > 2]
    return found


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--build", type=Path, default=Path("build/test"), help="(default: %(default)s)")
    parser.add_argument("--other", type=Path, help="a build of another shop to swap with (default: one that is made)")
    parser.add_argument("--quick", action="store_true", help="a few of everything")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be repeated")
    arguments = parser.parse_args()
    document = evidence(arguments.build, arguments.other, arguments.quick, arguments.part or PARTS)
    document["problems"] = problems(document)
    for each in document["problems"]:
        print(f"not kept: {each}")
    print(json.dumps(document, ensure_ascii=False))
    return 1 if document["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
