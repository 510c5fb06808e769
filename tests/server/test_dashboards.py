"""The dashboard and the alert rules are what Grafana and Prometheus read, and ask only for metrics that we declare."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import pytest
from dashboard_schema import Dashboard, Rules
from endcap_builders.outcomes.metrics import GAUGES
from endcap_server.declared.reasons import NO_ENGINE, Cause
from endcap_server.ensembles import ENSEMBLES, STAGES
from endcap_server.exposures.sink import OUTCOMES as EXPOSURE_OUTCOMES
from endcap_server.models import DECLARATIONS, ENGINES
from endcap_server.serving import metrics
from endcap_server.serving.generation import staged_name
from endcap_server.stages.ranking import RANKER
from queries import ALERTS, DOCS, SCRAPED, alerts, dashboard, queries, results, selectors

SERIES = {name: metric for metric in (*metrics.METRICS, *GAUGES.values()) for name in metric.series}
EVERYWHERE = SCRAPED | {"model", "process"}
VALUES = {
    "stage": set(STAGES),
    "outcome": {*metrics.OUTCOMES, *metrics.ENGINE_OUTCOMES, *EXPOSURE_OUTCOMES},
    "reason": {
        *Cause,
        *(code for each in STAGES.values() for codes in (each.checks, each.causes, each.refusals) for code in codes),
        metrics.OTHER,
    },
    "engine": {*ENGINES, RANKER, NO_ENGINE},
    "ensemble": set(ENSEMBLES),
    "degraded": {"yes", "no"},
    "source": {source for each in STAGES.values() for source in each.sources},
    "result": {"hit", "miss"},
    "known": {"yes", "no"},
}
QUERIES = list(queries())


def test_dashboard_schema() -> None:
    document = dashboard()
    Dashboard.model_validate(document)
    panels = document["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for one, two in combinations([panel["gridPos"] for panel in panels], 2):
        apart = (
            one["x"] + one["w"] <= two["x"]
            or two["x"] + two["w"] <= one["x"]
            or one["y"] + one["h"] <= two["y"]
            or two["y"] + two["h"] <= one["y"]
        )
        assert apart, (one, two)
    variables = {each["name"] for each in document["templating"]["list"]}
    for panel in panels:
        names = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(names)) == len(names)
        for target in panel.get("targets", ()):
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables | {"__rate_interval"}


def test_alerts_schema() -> None:
    rules = Rules.model_validate(alerts())
    names = [rule.alert for group in rules.groups for rule in group.rules]
    assert len(set(names)) == len(names)
    runbook = (DOCS / "operations.md").read_text(encoding="utf-8")
    headings = {line.lstrip("# ").lower() for line in runbook.splitlines() if line.startswith("#")}
    for group in rules.groups:
        for rule in group.rules:
            assert rule.annotations.runbook == f"docs/operations.md#{rule.alert.lower()}"
            assert rule.alert.lower() in headings, "an alert says what to do"


@pytest.mark.parametrize(
    ("where", "query", "shown"), QUERIES, ids=[f"{where} {n}" for n, (where, _, _) in enumerate(QUERIES)]
)
def test_queries(where: str, query: str, shown: set[str]) -> None:
    asked = selectors(query)
    assert asked
    for selector in asked:
        if not selector.name.startswith("endcap_"):
            continue  # Triton's own are looked up on a running server
        assert selector.name in SERIES, f"{where}: no such metric"
        metric = SERIES[selector.name]
        labels = {*metric.labels, *EVERYWHERE} | ({"le"} if selector.name.endswith("_bucket") else set())
        assert selector.labels <= labels, f"{where}: {selector.name} has no such label"
        for label, operator, value in selector.matchers:
            if label == "le":
                assert float(value) in metric.buckets
            elif label in VALUES and operator in ("MatchOp.Equal", "MatchOp.NotEqual"):
                assert value in VALUES[label], f"{where}: {label} never is {value}"
            elif label in VALUES:
                for part in value.split("|"):
                    assert any(re.fullmatch(part, each) for each in VALUES[label]), f"{where}: {label} never is {part}"
    given = results(query)
    assert "*" in given or shown <= given, f"{where}: the text shows labels that the query does not give"


def matched(operator: str, pattern: str, names: Iterable[str]) -> set[str]:
    """The names that a matcher lets through."""
    found = {name for name in names if (re.fullmatch(pattern, name) if "Re" in operator else name == pattern)}
    return set(names) - found if "Not" in operator else found


def test_a_query_for_a_model_finds_it_after_a_rollout_too() -> None:
    asked = 0
    for where, query, _ in QUERIES:
        for label, operator, pattern in (each for selector in selectors(query) for each in selector.matchers):
            if label != "model":
                continue
            asked += 1
            built = matched(operator, pattern, DECLARATIONS)
            applied = matched(operator, pattern, [staged_name(each, 12) for each in DECLARATIONS])
            assert built, f"{where}: no model is called so"
            assert applied == {staged_name(each, 12) for each in built}, f"{where}: blind after a rollout"
    assert asked


def test_histograms_are_asked_for_with_their_buckets() -> None:
    for where, query, _ in QUERIES:
        if "histogram_quantile" in query:
            assert all(each.name.endswith("_bucket") and "le" in each.grouped for each in selectors(query)), where


def test_every_metric_is_shown_and_documented() -> None:
    asked = {selector.name for _, query, _ in QUERIES for selector in selectors(query)}
    documented = (DOCS / "operations.md").read_text(encoding="utf-8")
    for metric in metrics.METRICS:
        assert asked & set(metric.series), f"{metric.name} is on no dashboard"
        assert f"`{metric.name}`" in documented


def test_promtool() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus); the schema was checked by the other tests")
    for command in (
        ["check", "rules", str(ALERTS)],
        ["test", "rules", str(Path(__file__).with_name("alerts_test.yml"))],
    ):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
