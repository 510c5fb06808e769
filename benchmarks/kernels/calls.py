"""Three calls of at most ten minutes each: correctness, speed, and the engines that use the kernels.

Every step is a process of its own. Results are few files with plain names, written as they come, so that a call that
is cut short keeps what it has: ``bench.csv`` or ``checks.csv``, ``limits.json``, ``accuracy.json``, ``log.txt`` and
``summary.json``.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.kernels import ROOT
from benchmarks.kernels.worker import BENCHMARKS

SECONDS = 540.0
"""Budget of a call by default; a device that is lent for ten minutes also starts and copies files."""
SANITIZERS = ("memcheck", "racecheck")


@dataclass(frozen=True)
class Step:
    """A command of a call."""

    name: str
    command: list[str]
    environment: dict[str, str]


@dataclass(frozen=True)
class Outcome:
    """How a step ended."""

    name: str
    state: str
    """ok, failed, timed out, or left out (no time was left)."""
    seconds: float


def steps(call: int, out: Path, small: bool, build: Path | None, only: Sequence[str] = BENCHMARKS) -> Iterator[Step]:
    """The steps of a call, the most important first."""
    if call == 3:
        # Without a build there is nothing to open; the command line refuses that before.
        command = [sys.executable, "-m", "benchmarks.kernels.engines", "--build", str(build), "--out", str(out)]
        yield Step("engines", command, {})
        return
    kind = {1: "check", 2: "bench"}[call]
    for name in only:
        command = [sys.executable, "-m", "benchmarks.kernels.worker", kind, name, "--out", str(out)]
        yield Step(f"{kind} {name}", [*command, "--commit", _commit(), *(["--small"] if small else [])], {})
    if call == 1:
        tool = shutil.which("compute-sanitizer")
        # PyTorch's cache of memory would hide an access behind the end of a tensor.
        for name in SANITIZERS if tool else ():
            command = [str(tool), "--tool", name, "--error-exitcode", "9", sys.executable]
            yield Step(
                name, [*command, str(ROOT / "tests/gpu/small_sizes.py")], {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
            )


def run_call(
    call: int,
    out: Path,
    seconds: float = SECONDS,
    small: bool = False,
    build: Path | None = None,
    only: Sequence[str] = BENCHMARKS,
) -> int:
    """Run a call within its time; the exit status is 0 if all its steps succeeded."""
    out.mkdir(parents=True, exist_ok=True)
    end, outcomes = time.monotonic() + seconds, list[Outcome]()
    for step in steps(call, out, small, build, only):
        began = time.monotonic()
        state = _run(step, end - began, out / "log.txt") if began < end else "left out"
        outcomes.append(Outcome(step.name, state, round(time.monotonic() - began, 1)))
        print(f"{outcomes[-1].seconds:>7.1f} s  {state:<10} {step.name}", flush=True)
        summary = {"call": call, "commit": _commit(), "steps": [asdict(outcome) for outcome in outcomes]}
        (out / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return 0 if all(outcome.state == "ok" for outcome in outcomes) else 1


def _run(step: Step, seconds: float, log: Path) -> str:
    paths = os.pathsep.join([str(ROOT), *(str(ROOT / name) for name in ("kernels", "client", "server", "builders"))])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **step.environment}
    with log.open("a", encoding="utf-8") as file:
        file.write(f"== {step.name}\n")
        file.flush()
        try:
            done = subprocess.run(
                step.command, cwd=ROOT, env=environment, stdout=file, stderr=file, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return "timed out"
    return "ok" if done.returncode == 0 else "failed"


def _commit() -> str:
    """The commit that is measured; empty in a copy without its history."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
