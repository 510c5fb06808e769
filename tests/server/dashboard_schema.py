# ruff: noqa: N815 - the names are Grafana's
"""What Grafana 10 and later read of a dashboard, and Prometheus of a file of rules: every key, with its type."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Duration = Annotated[str, StringConstraints(pattern=r"^(\d+(ms|[smhdwy]))+$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Grid(_Strict):
    h: int = Field(ge=1)
    w: int = Field(ge=1, le=24)
    x: int = Field(ge=0, le=23)
    y: int = Field(ge=0)


class Source(_Strict):
    type: Literal["prometheus"]
    uid: Literal["${datasource}"]


class Target(_Strict):
    refId: Annotated[str, StringConstraints(pattern="^[A-Z]$")]
    datasource: Source
    expr: Text
    legendFormat: Text


class Stacking(_Strict):
    mode: Literal["normal"]
    group: str


class Custom(_Strict):
    drawStyle: Literal["line"]
    fillOpacity: int = Field(ge=0, le=100)
    showPoints: Literal["never"]
    stacking: Stacking | None = None


class Defaults(_Strict):
    unit: Literal["reqps", "s", "percentunit", "short"]
    min: int
    custom: Custom


class FieldConfig(_Strict):
    defaults: Defaults
    overrides: list[Any] = Field(max_length=0)


class Legend(_Strict):
    displayMode: Literal["list"]
    placement: Literal["bottom"]
    showLegend: bool


class Tooltip(_Strict):
    mode: Literal["multi"]
    sort: Literal["desc"]


class Options(_Strict):
    legend: Legend
    tooltip: Tooltip


class Panel(_Strict):
    id: int = Field(ge=1)
    type: Literal["timeseries"]
    title: Text
    description: Text
    datasource: Source
    gridPos: Grid
    fieldConfig: FieldConfig
    options: Options
    targets: list[Target] = Field(min_length=1)


class Row(_Strict):
    id: int = Field(ge=1)
    type: Literal["row"]
    title: Text
    collapsed: Literal[False]
    gridPos: Grid
    panels: list[Any] = Field(max_length=0)


class VariableQuery(_Strict):
    query: Text
    refId: Text


class Variable(_Strict):
    name: Name
    label: Text
    type: Literal["datasource", "query"]
    query: str | VariableQuery
    current: dict[str, Any]
    hide: Literal[0]
    datasource: Source | None = None
    definition: str | None = None
    refresh: Literal[2] | None = None
    includeAll: bool = False
    multi: bool = False
    allValue: str | None = None
    sort: int = 0


class Variables(_Strict):
    list: list[Variable]


class Nothing(_Strict):
    list: list[Any]


class Span(_Strict):
    from_: Text = Field(alias="from")
    to: Text


class Dashboard(_Strict):
    uid: Annotated[str, StringConstraints(pattern="^[a-zA-Z0-9_-]{1,40}$")]
    title: Text
    description: Text
    tags: list[Text]
    schemaVersion: int = Field(ge=36)
    version: int
    editable: bool
    graphTooltip: Literal[0, 1, 2]
    refresh: Duration
    timezone: Literal["browser"]
    time: Span
    templating: Variables
    annotations: Nothing
    links: list[Any]
    panels: list[Annotated[Panel | Row, Field(discriminator="type")]]


class Labels(_Strict):
    severity: Literal["critical", "warning"]


class Annotations(_Strict):
    summary: Text
    runbook: Annotated[str, StringConstraints(pattern=r"^docs/operations\.md#[a-z]+$")]


class Alert(_Strict):
    alert: Annotated[str, StringConstraints(pattern="^Endcap[A-Z][A-Za-z]+$")]
    expr: Text
    for_: Duration | None = Field(None, alias="for")
    labels: Labels
    annotations: Annotations


class Group(_Strict):
    name: Text
    rules: list[Alert] = Field(min_length=1)


class Rules(_Strict):
    groups: list[Group] = Field(min_length=1)
