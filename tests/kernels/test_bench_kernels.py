"""The benchmarks' cases compute the same by every implementation, and their report says what was measured."""

import csv
import importlib
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ragged_inputs import DEVICE

from benchmarks.kernels.__main__ import BENCHMARKS
from benchmarks.kernels.bench_packed_cross_encoder import accuracy
from benchmarks.kernels.cases import pair_lengths
from benchmarks.kernels.limits import DeviceLimits
from benchmarks.kernels.report import BEGIN, END, markdown_table, plot, update_document, write_csv
from benchmarks.kernels.run import Row, check

LIMITS = DeviceLimits(copy_bytes_per_s=4e12, bf16_operations_per_s=8e14)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_implementation_computes_the_same(name: str) -> None:
    module = importlib.import_module(f"benchmarks.kernels.bench_{name}")
    cases = list(module.cases(DEVICE, small=True))
    assert cases
    for case in cases:
        errors = check(case)
        assert {"endcap", "torch"} <= set(errors)


def test_a_wrong_implementation_is_noticed() -> None:
    from benchmarks.kernels.bench_gelu_bias import cases

    (case,) = cases(DEVICE, small=True)
    right = case.implementations["endcap"]
    case.implementations["endcap"] = lambda: 1.1 * right()
    with pytest.raises(ValueError, match=r"gelu_bias, 9 x 96, bf16, endcap: expected a relative error below 0\.02"):
        check(case)


def test_accuracy_compares_with_float32() -> None:
    figures = accuracy(DEVICE, queries=2, candidates=12, name="tiny")
    assert 0 < figures["packed_error"] < 2 * figures["plain_error"]
    assert {figures["packed_same_top_10"], figures["plain_same_top_10"]} <= {0.0, 0.5, 1.0}


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
    path = write_csv(tmp_path, "GPU-torch-1", ROWS, LIMITS)
    with path.open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(ROWS)
    assert written[1]["machine"] == "GPU-torch-1"
    assert float(written[1]["share"]) == 0.5
    assert float(written[1]["copy_bytes_per_s"]) == 4e12
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
