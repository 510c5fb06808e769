"""The PromQL of the dashboard and the alert rules: every query, and what each asks for."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

DOCS = Path(__file__).resolve().parents[1] / "docs"
DASHBOARD = DOCS / "dashboards" / "endcap.json"
ALERTS = DOCS / "alerts" / "endcap.yml"
SCRAPED = frozenset({"instance", "job"})
"""Labels that Prometheus adds."""


@dataclass(frozen=True)
class Selector:
    """A metric that a query asks for: its name, (label, operator, value) of its matchers, labels it is grouped by."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    grouped: frozenset[str]

    @property
    def labels(self) -> set[str]:
        """Every label that the metric has to have."""
        return {label for label, _, _ in self.matchers} | self.grouped


def dashboard() -> dict[str, Any]:
    """The dashboard's document."""
    document: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return document


def alerts() -> dict[str, Any]:
    """The rules' document."""
    document: dict[str, Any] = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    return document


def queries() -> Iterator[tuple[str, str, set[str]]]:
    """(where, PromQL, labels that its texts show) of the dashboard's targets and the rules."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")
            yield f"panel {panel['title']}", query, set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    for group in alerts()["groups"]:
        for rule in group["rules"]:
            shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
            yield f"alert {rule['alert']}", rule["expr"], shown


def selectors(query: str) -> list[Selector]:
    """What a query asks for; raises ValueError when it is no PromQL."""
    found: list[Selector] = []
    _collect(promql.parse(query), frozenset(), found)
    return found


def results(query: str) -> set[str]:
    """Labels that the results of a query have: those it is grouped by, or, ungrouped, any ("*")."""
    groups: list[set[str]] = []

    def note(node: Any) -> bool:
        if isinstance(node, promql.AggregateExpr):
            groups.append(set(node.modifier.labels) if node.modifier else set())
        return True

    promql.walk(promql.parse(query), note)
    return set.union(*groups) if groups else {"*"}


def _collect(node: Any, grouped: frozenset[str], found: list[Selector]) -> None:
    if isinstance(node, promql.VectorSelector):
        matchers = tuple((each.name, str(each.op), each.value) for each in node.matchers.matchers)
        found.append(Selector(node.name, matchers, grouped))
    elif isinstance(node, promql.MatrixSelector):
        _collect(node.vector_selector, grouped, found)
    elif isinstance(node, promql.AggregateExpr):
        _collect(node.expr, grouped | frozenset(node.modifier.labels if node.modifier else ()), found)
    elif isinstance(node, promql.BinaryExpr):
        _collect(node.lhs, grouped, found)
        _collect(node.rhs, grouped, found)
    elif isinstance(node, promql.Call):
        for argument in node.args:
            _collect(argument, grouped, found)
    elif isinstance(node, promql.ParenExpr):
        _collect(node.expr, grouped, found)
    elif not isinstance(node, promql.NumberLiteral):
        raise ValueError(f"{type(node).__name__}: no query of ours had one so far; say here what it asks for")
