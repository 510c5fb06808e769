"""One small run of the whole benchmark against the real server, in a process of its own, as a user starts it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from endcap_server.launch import Server
from trace_format import check_format

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def report(build: Path, server: Server, out: Path) -> dict[str, Any]:
    words = ["--build", str(build), "--address", server.grpc_address, "--out", str(out), "--quick", "--profile"]
    words += [
        "--only",
        "baseline",
        "--only",
        "load",
        "--only",
        "relevance",
        "--requests",
        "2",
        "--rates",
        "1,2",
        "--concurrency",
        "2",
        "--seconds",
        "1.5",
    ]
    command = [sys.executable, "-m", "benchmarks", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    document: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return document


def test_baseline_and_system_answer_alike(report: dict[str, Any]) -> None:
    speed, answers = report["baseline"]["speed"], report["baseline"]["answers"]
    assert speed["storefront_uncached"]["requests"] + report["baseline"]["uncached_dropped"] == 2
    assert speed["search"]["requests"] == 2
    for row in speed.values():
        assert row["ratio"]["value"] > 0
        assert len(row["system_samples_ms"]) == row["requests"]
    assert answers["storefront"]["pages"] == 2
    assert answers["storefront"]["products_in_common"] > 0.2
    assert answers["search"]["overlap_at_10"] >= 0.8
    assert answers["search"]["rank_correlation"] > 0.8


def test_load_is_complete(report: dict[str, Any]) -> None:
    load = report["load"]
    levels = {(level["kind"], level["clients"]) for level in load["closed_loop"]}
    assert levels == {("storefront", 2), ("search", 2)}
    for level in load["closed_loop"]:
        assert level["answered"] == level["requests"] > 0, level["errors"]
        assert set(level["stage_ms"]) >= {"retrieval", "rerank", "fusion"}
        assert level["models"][level["kind"]]["requests"] == level["requests"]
    assert {1.0, 2.0} <= {point["rate"] for point in load["open_loop"]}
    for point in load["open_loop"]:
        assert point["requests"] > 0
        assert 0 <= point["cached_share"] <= 1
    assert (load["overload"] is None) == (load["knee"] is None)


def test_breakdown_names_the_engines(report: dict[str, Any]) -> None:
    stages = report["load"]["breakdown"]["storefront"]["stages"]
    assert stages["theme"]["calls"]["theme_llm"] == 1.0
    assert stages["rerank"]["calls"]["cross_encoder"] == 1.0
    assert 0 < stages["rerank"]["engine_ms"] <= stages["rerank"]["ms"]


def test_order_of_search_results_is_measured(report: dict[str, Any]) -> None:
    relevance = report["relevance"]
    assert relevance["queries"]["queries"] > 10
    assert list(relevance["systems"]) == ["random", "BM25", "bi-encoder", "teacher", "student"]
    accuracy = {name: row["figures"]["accuracy"]["value"] for name, row in relevance["systems"].items()}
    # The small build's student has trained for seconds; the bi-encoder is a finished model.
    assert accuracy["bi-encoder"] > accuracy["random"]


def test_processes_are_told_apart(report: dict[str, Any]) -> None:
    processes = report["memory"]["processes"]
    assert {"tritonserver", "rerank", "theme", "cross_encoder", "theme_llm", "keyword_llm", "nearest"} <= set(processes)
    assert all(use["pss_mb"] > 1 for use in processes.values())
    assert report["memory"]["baseline_pss_mb"] > 100


def test_targets_and_files(report: dict[str, Any], out: Path) -> None:
    assert len(report["targets"]) == 11
    assert report["server"] == {"address": report["server"]["address"], "started_by_the_run": False}
    assert report["versions"]["tritonserver"]
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    for kind in ("storefront", "search"):
        trace = json.loads((out / f"profile-{kind}.json").read_text(encoding="utf-8"))
        check_format(trace)
        names = {event["name"] for event in trace["traceEvents"]}
        assert {"encode", "wait", "decode", "retrieval", "rerank", "fusion", "cross_encoder"} <= names
