"""The benchmarks' cases compute the same by every implementation, and their report says what was measured."""

import json
import math
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ragged_inputs import DEVICE

from benchmarks.kernels.bench_packed_cross_encoder import accuracy
from benchmarks.kernels.calls import run_call, steps
from benchmarks.kernels.cases import pair_lengths
from benchmarks.kernels.limits import DeviceLimits
from benchmarks.kernels.report import (
    BEGIN,
    END,
    append_csv,
    markdown_table,
    plot,
    read_csv,
    update_document,
)
from benchmarks.kernels.run import Row, check
from benchmarks.kernels.timing import rotated
from benchmarks.kernels.worker import BENCHMARKS, check_module

LIMITS = DeviceLimits(copy_bytes_per_s=4e12, bf16_operations_per_s=8e14)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_implementation_computes_the_same(name: str, tmp_path: Path) -> None:
    rows: list[Row] = []
    check_module(name, True, lambda _, row: rows.append(row), tmp_path)
    assert {"endcap", "torch"} <= {row.implementation for row in rows}


@pytest.mark.parametrize(
    ("call", "modules"),
    [(1, ["gelu_bias"]), pytest.param(2, BENCHMARKS, marks=pytest.mark.long)],
    ids=["check", "bench"],
)
def test_dry_run_of_a_call(call: int, modules: list[str], tmp_path: Path) -> None:
    """Each module runs in its own process; a few files with plain names."""
    assert run_call(call, tmp_path, 300, small=True, only=modules) == 0, (tmp_path / "log.txt").read_text()
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    kind, csv_name = {1: ("check", "checks.csv"), 2: ("bench", "bench.csv")}[call]
    names = [step["name"] for step in summary["steps"]]
    assert names[: len(modules)] == [f"{kind} {name}" for name in modules]
    assert {step["state"] for step in summary["steps"]} == {"ok"}
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) <= 8
    assert all(re.fullmatch(r"[a-z]+\.[a-z]+", name) for name in files)
    assert {row.kernel for row in read_csv(tmp_path / csv_name)[1]} >= set(modules) - {"layer_norms", "decoder_kernels"}


def test_the_headline_runs_first_and_the_sanitizer_sees_every_allocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert next(steps(2, tmp_path, False, None)).name == "bench packed_cross_encoder"
    (tmp_path / "compute-sanitizer").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    last = list(steps(1, tmp_path, False, None))[-1]
    assert last.command[:3] == [str(tmp_path / "compute-sanitizer"), "--tool", "racecheck"]
    assert last.environment == {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def test_a_call_without_time_or_with_a_fault_keeps_what_it_has(tmp_path: Path) -> None:
    assert run_call(3, tmp_path, 60, build=tmp_path / "nothing") == 1
    assert run_call(2, tmp_path, 0, small=True) == 1
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert {step["state"] for step in summary["steps"]} == {"left out"}
    assert "nothing" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_call_three_needs_a_build(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.kernels.__main__ import main

    with pytest.raises(SystemExit):
        main(["--call", "3"])
    assert "--build: expected a build with --call 3, got none" in capsys.readouterr().err


def test_launches_of_a_graph_rotate_over_copies() -> None:
    first, second = torch.ones(3), torch.ones(5)
    calls = rotated(partial(torch.add, first, other=first), most_bytes=4 * 2 * first.nbytes)
    assert len(calls) == 4
    assert len({call.args[0].data_ptr() for call in calls}) == 4  # type: ignore[attr-defined]
    assert all(torch.equal(call(), 2 * first) for call in calls)
    assert len(rotated(partial(torch.neg, second), most_bytes=8)) == 1
    assert len(rotated(lambda: second)) == 1


def test_a_wrong_implementation_is_noticed() -> None:
    from benchmarks.kernels.bench_gelu_bias import cases

    (case,) = cases(DEVICE, small=True)
    right = case.implementations["endcap"]
    case.implementations["endcap"] = lambda: 1.1 * right()
    with pytest.raises(ValueError, match=r"gelu_bias, 9 x 96, bf16, endcap: expected a relative error below 0\.02"):
        check(case)


@pytest.mark.long
def test_accuracy_compares_with_float32() -> None:
    figures = accuracy(DEVICE, queries=2, candidates=12, name="tiny")
    assert 0 < figures["packed_error"] < 2 * figures["plain_error"]
    assert 0.8 < figures["packed_overlap_at_10"] <= 1
    assert 0.8 < figures["plain_overlap_at_10"] <= 1


def test_lengths_are_those_of_shops() -> None:
    lengths = pair_lengths(5000)
    assert 38 < lengths.mean() < 42
    assert (lengths.min(), lengths.max()) == (8, 128)
    assert np.median(lengths) < lengths.mean()


def test_limits() -> None:
    assert LIMITS.floor_us(4e6, 0) == (pytest.approx(1.0), "copy")
    assert LIMITS.floor_us(4e6, 8e9) == (pytest.approx(10.0), "matrix")


def row(implementation: str, launch: str, p50: float, note: str = "", scale: float = 1.0) -> Row:
    size = f"{scale:.0f} rows"
    return Row("gelu_bias", size, scale, implementation, launch, p50, p50, p50, 9, 2.0, "copy", 2.0 / p50, 0.0, note)


ROWS = [
    row("endcap", "eager", 9.0),
    row("endcap", "graph", 4.0),
    row("torch", "eager", 40.0),
    row("torch.compile", "graph", 10.0),
    row("fast but wrong", "graph", 1.0, "wrong result"),
    row("library", "eager", 6.0),
    row("library", "graph", math.nan, "no CUDA graph"),
    row("endcap", "graph", 8.0, scale=2.0),
    row("torch", "graph", 80.0, scale=2.0),
]


def test_the_table_compares_each_at_its_best() -> None:
    lines = markdown_table(ROWS).splitlines()
    assert lines[2] == ("| `gelu_bias` | 1 rows | 4.0 us | graph | 10.0x | 2.5x | library 1.5x | 50 % of copy |")
    assert lines[3] == "| `gelu_bias` | 2 rows | 8.0 us | graph | 10.0x | - | - | 25 % of copy |"


def test_report_files(tmp_path: Path) -> None:
    path = tmp_path / "bench.csv"
    for one in ROWS:
        append_csv(path, one, "GPU, torch 1", "abc", LIMITS)
    machine, written = read_csv(path)
    assert machine == "GPU, torch 1"
    assert repr(written) == repr(ROWS)
    assert path.read_text(encoding="utf-8").splitlines()[1].endswith(",4000000000000.0,800000000000000.0")
    (picture,) = plot(tmp_path / "plots", ROWS)
    assert picture.name == "gelu_bias.png"
    assert picture.stat().st_size > 5000


def test_the_document_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "kernels.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    update_document(path, "new")
    assert path.read_text(encoding="utf-8") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    path.write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="expected the marks"):
        update_document(path, "new")


def test_the_real_document_has_the_marks() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/kernels.md").read_text(encoding="utf-8")
    assert 0 < text.find(BEGIN) < text.find(END)


@pytest.mark.skipif(DEVICE == "cuda", reason="about a machine without a GPU")
def test_without_a_gpu_it_says_so_and_compiles() -> None:
    command = [sys.executable, "-m", "benchmarks.kernels", "--compile", "join_pairs"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("There is no GPU here, so nothing is measured")
    assert done.stdout.count("_join_pairs_kernel") == 2
