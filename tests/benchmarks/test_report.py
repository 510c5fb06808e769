"""The report: its targets and its page."""

import json
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks.breakdown import breakdown
from benchmarks.report import number, percent, render, write_report
from benchmarks.targets import targets

RATIO = {"value": 3.5, "low": 3.1, "high": 3.9}


def speed(ratio: float, baseline_ms: float) -> dict[str, Any]:
    return {
        "requests": 2,
        "ratio": RATIO | {"value": ratio},
        "baseline_ms": RATIO | {"value": baseline_ms},
        "system_ms": RATIO,
        "baseline_samples_ms": [baseline_ms, baseline_ms],
        "system_samples_ms": [baseline_ms / ratio] * 2,
        "baseline_stage_ms": {"retrieval": 5.0, "rerank": baseline_ms - 5},
        "system_stage_ms": {"retrieval": 4.0, "rerank": baseline_ms / ratio - 4},
    }


def level(kind: str, clients: int, throughput: float) -> dict[str, Any]:
    model = {"requests": 4, "executions": 4, "failures": 0}
    means = dict.fromkeys(("success", "queue", "compute_input", "compute_infer", "compute_output"), 0.5)
    model |= {f"mean_{name}_ms": value for name, value in means.items()}
    return {
        "kind": kind,
        "clients": clients,
        "requests": 4,
        "answered": 4,
        "latency_ms": {"p50": 90.0, "p95": 120.0, "p99": 130.0, "mean": 100.0},
        "throughput": throughput,
        "goodput": throughput,
        "degraded_share": 0.25,
        "fallback_share": 0.0,
        "cached_share": 0.5,
        "errors": {},
        "stage_ms": {"retrieval": 10.0, "rerank": 80.0},
        "beyond_stages_ms": 9.5,
        "models": {"retrieval": model, "rerank": model, kind: model | {"mean_success_ms": 92.5}},
        "use": {"processes": {"rerank": {"pss_mb": 30.0, "cores": 0.5}}, "total": {"pss_mb": 30.0, "cores": 0.5}},
    }


SHARES = {"retrieval": {"own_ms": 1.0, "engine_ms": 3.0, "calls": {"nearest": 1.0}}}


@pytest.fixture
def report() -> dict[str, Any]:
    closed = [level(kind, clients, clients / 2) for clients in (1, 8) for kind in ("storefront", "search")]
    opened = [
        level("storefront", 0, rate) | {"rate": rate, "p99_ms": 900.0, "goodput_of_window": rate} for rate in (1.0, 2.0)
    ]
    alike = {"rankings": 2, "overlap_at_10": 0.9, "same_first_product": 1.0, "rank_correlation": 0.98}
    pages = {
        "pages": 2,
        "equal_themes": 0.9,
        "equal_keywords": 0.8,
        "products_in_common": 0.9,
        "of_equal_themes": alike,
    }
    document = {
        "format": 1,
        "created": "2026-11-21 05:00 UTC",
        "command": "python -m benchmarks --build 'a <b> & c'",
        "revision": "abc1234",
        "seconds": 61.0,
        "plan": {"build": "a <b> & c", "catalogue": "shop", "budget_ms": 2000, "search_share": 0.5, "quick": False},
        "machine": {
            "processor": "Some CPU",
            "cores": 2,
            "memory_gb": 24.0,
            "system": "Linux",
            "load_average": [0.1, 0.2, 0.3],
            "instructions": ["avx2"],
        },
        "versions": {"python": "3.11", "tritonserver": "2.51.0"},
        "build_versions": {"catalogue": "0123"},
        "busy_elsewhere_cores": 0.0,
        "baseline": {
            "speed": {
                "storefront_uncached": speed(3.5, 1000),
                "storefront_cached": speed(9.0, 1000),
                "search": speed(2.5, 400),
            },
            "answers": {"storefront": pages, "search": alike},
        },
        "load": {
            "closed_loop": closed,
            "open_loop": opened,
            "knee": {"rate": 2.0, "p99_ms": 900.0, "goodput": 2.0, "highest_rate_tried": True},
            "overload": {
                "rate": 8.0,
                "goodput": 1.9,
                "knee_goodput": 2.0,
                "goodput_share_of_knee": 0.95,
                "rejected": 3,
                "requests": 20,
                "rejected_p99_ms": 12.0,
                "recovery_s": 1.0,
                "recovered": True,
                "errors": {"Overloaded": 3},
                "fallback_share": 0.1,
                "overload_s": 5.0,
                "timeline": [[0.1, 300.0, ""], [0.2, 10.0, "Overloaded"], [6.0, 200.0, ""]],
                "processes_lost": 0,
            },
            "breakdown": {"clients": 1}
            | {
                kind: breakdown(kind, each, SHARES)
                for kind, each in zip(("storefront", "search"), closed[:2], strict=True)
            },
        },
        "engines": [
            {
                "engine": "cross_encoder",
                "against": "predict",
                "at_a_time": 4,
                "ratio": 4.0,
                "answers": "Spearman 0.9999",
            }
        ],
        "relevance": {
            "names": {"ndcg": "nDCG@10", "corpus_recall": "recall@100"},
            "queries": {"source": "held-out", "queries": 40, "pairs": 300, "whole_corpus_queries": 0},
            "systems": {
                "student": {
                    "figures": {"ndcg": {"value": 0.91234, "low": 0.9, "high": 0.92}, "corpus_recall": {"queries": 0}}
                }
            },
        },
        "memory": {
            "processes": {"rerank": {"pss_mb": 30.0, "cores": 0.5}},
            "total": {"pss_mb": 30.0, "cores": 0.5},
            "baseline_pss_mb": 900.0,
        },
        "profile": {"files": ["profile-storefront.json"]},
        "comparison": {
            "base": {"created": "yesterday", "revision": "", "command": "x"},
            "same_processor": False,
            "machine_ratio": 1.1,
            "busy_elsewhere_cores": {"new": 0.0, "base": None},
            "rows": [{"series": "search", "ratio": 0.8, "low": 0.7, "high": 0.9, "verdict": "faster"}],
        },
    }
    document["targets"] = [row.document() for row in targets(document)]
    return document


class Page(HTMLParser):
    """Collects the text, what is loaded from elsewhere, and checks that tags are closed in order."""

    VOID = frozenset(("meta", "br", "path", "use", "rect", "line", "circle", "image", "stop"))

    def __init__(self, html: str):
        super().__init__()
        self.text, self.open, self.outside = "", [], []  # type: ignore[var-annotated]
        self.tags: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [value for name, value in attrs if name in ("src", "href") and not str(value).startswith("#")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def rows(report: dict[str, Any]) -> dict[str, tuple[str, bool | None]]:
    return {row.name: (row.measured, row.met) for row in targets(report)}


def test_targets_of_a_whole_run(report: dict[str, Any]) -> None:
    found = rows(report)
    assert found["Storefront page, uncached, against the baseline"] == ("3.50x [3.10, 3.90], 2 requests", True)
    assert found["Storefront page, cached, against the baseline"][1] is False
    assert found["Search, against the baseline"][1] is True
    throughput = found["Throughput at 8 clients, storefront, against the baseline's (one after another)"]
    assert throughput == ("4.00x (4.00/s against 1.00/s)", True)
    assert found["Throughput at 8 clients, search, against the baseline's (one after another)"][1] is False
    assert found["What the ensemble adds to its stages' compute, storefront, one client"] == (
        "1.50 ms (mean); with Triton's gathering of the stages' inputs 2.50 ms, with client and wire 9.50 ms (median)",
        True,
    )
    assert found["Goodput at 4x the knee"] == ("95% (1.90/s against 2.00/s)", True)
    assert found["Rejected requests are answered"] == ("12.0 ms, 3 of 20 rejected", True)
    assert found["Recovery after the overload"][1] is True
    assert found["Processes lost in the overload"] == ("none", True)


def test_targets_that_are_missed_or_not_measured(report: dict[str, Any]) -> None:
    overload = report["load"]["overload"]
    overload |= {"goodput_share_of_knee": 0.5, "rejected_p99_ms": 80.0, "recovery_s": 9.0, "processes_lost": 1}
    assert [row.met for row in targets(report)[-4:]] == [False] * 4
    overload |= {"rejected": 0, "rejected_p99_ms": None}
    assert rows(report)["Rejected requests are answered"] == ("none of 20 was rejected", None)
    assert {row.met for row in targets({})} == {None}
    assert {row.measured for row in targets({})} == {"not measured"}


def test_breakdown_adds_up(report: dict[str, Any]) -> None:
    part = report["load"]["breakdown"]["storefront"]
    assert part["stages"]["retrieval"]["engine_ms"] == pytest.approx(7.5)
    assert part["stages"]["retrieval"]["own_ms"] == pytest.approx(2.5)
    assert part["stages"]["rerank"]["own_ms"] == pytest.approx(80), "no engine was called in the replay"
    assert part["inputs_ms"] == 1.0, "half a millisecond each of retrieval and rerank"
    beside = part["inputs_ms"] + part["ensemble_adds_ms"] + part["client_adds_ms"]
    assert part["stages_ms"] + beside == pytest.approx(part["client_ms"])


def test_page_is_whole_and_alone(report: dict[str, Any]) -> None:
    html = render(report)
    page = Page(html)
    assert not page.open
    assert page.outside == []
    assert "script" not in page.tags
    assert "@import" not in html
    assert "url(http" not in html
    assert page.tags.count("svg") == 8
    for text in (
        "Some CPU",
        "a <b> & c",
        "tritonserver 2.51.0",
        "3.50x [3.10, 3.90]",
        "faster",
        "overlap@10",
        "profile-storefront.json",
        "the knee itself lies above",
    ):
        assert text in page.text
    assert page.text.index("Targets") < page.text.index("Plots") < page.text.index("Closed loop")
    assert "prefers-color-scheme: dark" in html
    assert "#010203" not in html


def test_parts_that_were_not_run_are_left_out(report: dict[str, Any]) -> None:
    for name in ("load", "engines", "relevance", "memory", "profile", "comparison"):
        del report[name]
    page = Page(render(report))
    assert page.tags.count("svg") == 2
    for text in (
        "Open loop",
        "Engines alone",
        "Order of search results",
        "proportional set size",
        "Against the earlier report",
    ):
        assert text not in page.text
    only_engines = {name: value for name, value in report.items() if name != "baseline"}
    assert Page(render(only_engines)).tags.count("svg") == 0


def test_order_of_search_results_is_shown_with_intervals(report: dict[str, Any]) -> None:
    text = Page(render(report)).text
    assert "Order of search results" in text
    assert "0.912 [0.900, 0.920]" in text


def test_no_knee_and_no_answers(report: dict[str, Any]) -> None:
    load = deepcopy(report["load"])
    load |= {"knee": None, "overload": None}
    load["open_loop"][1] |= {"latency_ms": {}, "p99_ms": None, "errors": {"DeadlineExceeded": 4}}
    page = Page(render(report | {"load": load}))
    assert "no rate was" in page.text
    assert "DeadlineExceeded 4" in page.text


def test_files(report: dict[str, Any], tmp_path: Path) -> None:
    as_json, as_html = write_report(report, tmp_path / "out")
    assert json.loads(as_json.read_text(encoding="utf-8"))["seconds"] == 61.0
    assert as_html.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_figures() -> None:
    assert (number(1234.567, 1), number(None), number(float("nan"))) == ("1,234.6", "–", "–")
    assert (percent(0.256), percent(0.256, 1), percent(None)) == ("26 %", "25.6 %", "–")
