"""`endcap evaluate storefront` over the real server: a month of the small shop is kept aside from its build."""

import io
import json
from pathlib import Path

import pytest
from endcap_builders.evaluation.storefront import StorefrontEvaluation, run_storefront
from endcap_server.launch import Server
from rich.console import Console


def test_pages_by_what_was_bought_next(build: Path, server: Server) -> None:
    request = StorefrontEvaluation(
        build, address=server.grpc_address, against=server.grpc_address, shoppers=8, seed=1, name="test-storefront"
    )
    report = run_storefront(request, Console(file=io.StringIO()))
    assert report["shoppers"]["measured"] == 8
    assert report["shoppers"]["eligible"] > 8
    assert list(report["systems"]) == ["page", "base", "popular", "own", "static", "half"]
    page = report["systems"]["page"]
    # The same server twice: the same pages.
    assert {name: page[name] for name in ("all", "new")} == {
        name: report["systems"]["base"][name] for name in ("all", "new")
    }
    assert 24 <= page["products"] <= 48
    assert 0 <= page["all"]["low"] <= page["all"]["value"] <= page["all"]["high"] <= 1
    assert sum(row["placements"] for row in report["positions"].values()) == report["titles"]["shown"]
    assert sum(row["all"]["value"] for row in report["sources"].values()) == pytest.approx(
        page["all"]["value"], abs=1e-3
    )
    assert report["latency"]["page"]["p95_ms"] >= report["latency"]["page"]["p50_ms"] > 0
    folder = build / "evaluation/test-storefront"
    lines = [json.loads(line) for line in (folder / "pages.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 1 + 2 * 8 + report["shoppers"]["new"]
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == report
