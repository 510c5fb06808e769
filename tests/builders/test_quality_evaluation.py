"""`endcap evaluate quality` on a tiny shop."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from endcap_builders.evaluation.cli import add_evaluate_command
from endcap_builders.evaluation.quality import QualityEvaluation, quality_settings, run_quality
from endcap_builders.evaluation.queries import EvaluationError
from endcap_builders.evaluation.request import EvaluationRequest
from endcap_builders.quality.product_fit import RELATIVE, RELEVANCE, SIMILARITY, TEACHER
from endcap_builders.quality.served import served_parameters, set_served
from endcap_builders.step import BuildError, SettingError
from endcap_server.declared.errors import ParameterError
from endcap_server.serving.model_repository import rendered
from endcap_server.stages.fusion_parameters import FusionParameters
from rich.console import Console
from tiny_relevance import COLOURS, THINGS, TITLES, copy_shop, pipeline, write_shop


@pytest.fixture(scope="module")
def shop(made_once, tmp_path_factory) -> Path:
    folder = copy_shop(made_once("relevance_shop", write_shop), tmp_path_factory.mktemp("quality"))
    pipeline(folder, teacher={"epochs": 2}, cross_encoder={"epochs": 1}).run()
    unseen = folder / "unseen"
    unseen.mkdir()
    queries = [f"{colour}  {thing.upper()} please" for colour in COLOURS for thing in THINGS[:3]]
    frame = pl.DataFrame({"query_id": range(len(queries)), "query": queries, "split": "dev"})
    frame.write_parquet(unseen / "queries.parquet")
    rows = [
        (number, f"p{row}", float(len(set(query.lower().split()) & set(title.split()))))
        for number, query in enumerate(queries)
        for row, title in enumerate(TITLES)
    ]
    labels = pl.DataFrame(rows, schema=["query_id", "product_id", "relevance"], orient="row")
    labels.write_parquet(unseen / "labels.parquet")
    return folder


def evaluation(shop: Path, **changes: Any) -> QualityEvaluation:
    asked = {"queries": shop / "unseen", "labels": shop / "unseen"} | changes.pop("asked", {})
    settings = quality_settings({"quality": changes.pop("settings", {})})
    return QualityEvaluation(
        EvaluationRequest(shop / "build", shop / "catalogue", **asked), settings, ("products",), **changes
    )


def test_products_against_people(shop: Path) -> None:
    report = run_quality(evaluation(shop), Console(quiet=True))
    found = report["products"]
    assert list(found["scores"]) == [RELEVANCE, SIMILARITY, RELATIVE, TEACHER]
    # Of 30 products one has both words, of 9 others one word (label 0.5), 20 have none.
    assert (found["queries"], found["fits"], found["misfits"], found["between"]) == (15, 150, 300, 0)
    assert found["serves"] == RELEVANCE
    relevance = found["scores"][RELEVANCE]
    assert relevance["point"]["false_drops"]["groups"] == 15
    assert relevance["served"]["floor"] == FusionParameters.from_strings("fusion", {}).relevance_floor
    assert "served" not in found["scores"][TEACHER]
    assert found["scores"][RELATIVE]["point"]["floor"]["value"] < found["scores"][SIMILARITY]["point"]["floor"]["value"]
    shares = [row["misfits_found"] for row in relevance["curve"]]
    assert shares == sorted(shares)
    folder = shop / "build/evaluation/quality"
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == report
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert f"| {RELEVANCE} | " in text
    assert (folder / "products.png").stat().st_size > 10_000


def test_what_lies_between_counts_for_neither(shop: Path) -> None:
    found = run_quality(evaluation(shop, settings={"fit": 0.9}, name="strict"), Console(quiet=True))["products"]
    assert (found["fits"], found["misfits"], found["between"]) == (15, 300, 135)
    labels = pl.read_parquet(shop / "unseen/labels.parquet").with_columns(relevance=pl.lit(2.0))
    labels.write_parquet(shop / "same.parquet")
    same = evaluation(shop, asked={"labels": shop / "same.parquet"}, settings={"label_values": "0:0 2:1"})
    with pytest.raises(EvaluationError, match=r"expected products that fit .* got 450 and 0; set quality.fit"):
        run_quality(same, Console(quiet=True))


def test_the_catalogues_own_held_out_queries(shop: Path) -> None:
    found = run_quality(evaluation(shop, asked={"queries": None, "labels": None}), Console(quiet=True))["products"]
    assert found["source"].startswith("held-out queries of the catalogue")
    assert 0 < found["queries"] < len(THINGS) + len(TITLES)


def test_served_floors_are_those_of_the_repository(shop: Path, tmp_path: Path) -> None:
    name = "fusion/config.pbtxt"
    path = tmp_path / "repository" / name
    path.parent.mkdir(parents=True)
    line = '"relevance_floor" value: {{ string_value: "{}"'
    path.write_text(rendered()[name].replace(line.format("0.2"), line.format("0.35")), encoding="utf-8")
    assert served_parameters(tmp_path, "fusion", FusionParameters).relevance_floor == 0.35
    assert served_parameters(tmp_path / "none", "fusion", FusionParameters).relevance_floor == 0.2


def test_measured_floors_are_written_to_where_they_are_read(shop: Path) -> None:
    build = shop / "build"
    folder = build / "repository/fusion"
    with pytest.raises(BuildError, match="expected a configuration, got none"):
        run_quality(replace(evaluation(shop, name="floors"), set_floors=True), Console(quiet=True))
    folder.mkdir(parents=True)
    before = rendered()["fusion/config.pbtxt"]
    (folder / "config.pbtxt").write_text(before, encoding="utf-8")
    report = run_quality(replace(evaluation(shop, name="floors"), set_floors=True), Console(quiet=True))
    found = served_parameters(build, "fusion", FusionParameters)
    points = {name: row["point"]["floor"]["value"] for name, row in report["products"]["scores"].items()}
    assert found.relevance_floor == pytest.approx(points[RELEVANCE])
    assert found.similarity_floor == pytest.approx(points[SIMILARITY])
    after = (folder / "config.pbtxt").read_text(encoding="utf-8")
    changed = [line for line, old in zip(after.splitlines(), before.splitlines(), strict=True) if line != old]
    assert [line.split('"')[1] for line in changed] == ["relevance_floor", "similarity_floor"]
    with pytest.raises(ParameterError, match="relevance_floor"):
        set_served(build, "fusion", FusionParameters, {"relevance_floor": 2.0})
    with pytest.raises(BuildError, match="expected one parameter no_floor, got 0"):
        set_served(build, "fusion", FusionParameters, {"no_floor": 0.5})
    assert (folder / "config.pbtxt").read_text(encoding="utf-8") == after


def test_wrong_input_is_named(shop: Path) -> None:
    with pytest.raises(SettingError, match="--set: expected a setting of quality, got 'qualty'"):
        quality_settings({"qualty": {}})
    with pytest.raises(SettingError, match=r"setting quality\.fit"):
        quality_settings({"quality": {"fit": 2}})
    with pytest.raises(EvaluationError, match=r"--part: expected one of products.*, got 'titels'"):
        run_quality(QualityEvaluation(evaluation(shop).asked, quality_settings({}), ("titels",)), Console(quiet=True))


def test_command_line(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_evaluate_command(parser.add_subparsers())
    words = ["evaluate", "quality", "--build", str(shop / "build"), "--part", "products", "--name", "cli"]
    words += ["--queries", str(shop / "unseen"), "--labels", str(shop / "unseen"), "--set", "quality.max_queries=4"]
    arguments = parser.parse_args(words)
    assert arguments.run(arguments) == 0
    report = json.loads((shop / "build/evaluation/cli/report.json").read_text(encoding="utf-8"))
    assert report["products"]["queries"] == 4
    assert np.isfinite(report["products"]["scores"][SIMILARITY]["point"]["floor"]["value"])
