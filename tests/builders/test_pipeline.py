"""The build pipeline: what runs, what is skipped, and what survives a failure."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from endcap_builders.catalogue import CatalogueError, write_catalogue
from endcap_builders.catalogue.cut import EventCut
from endcap_builders.manifest import cut_of, read_manifest
from endcap_builders.pipeline import Pipeline
from endcap_builders.step import BuildContext, BuildError, Settings, Step, build_context
from endcap_builders.steps import catalogue as catalogue_step
from pydantic import Field
from rich.console import Console


class CountSettings(Settings):
    factor: int = Field(1, ge=1, description="multiplies the count")


class Recorder:
    """Two real steps: `count` writes the number of products, `double` reads it; `ran` lists what was run."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fail = False
        self.extra = ""

    def count(self, ctx: BuildContext, settings: CountSettings) -> dict[str, Any]:
        self.ran.append("count")
        shard = ctx.work / "shard"
        shard.write_text(shard.read_text(encoding="utf-8") + "x" if shard.exists() else "x", encoding="utf-8")
        number = str(ctx.catalogue.products.height * settings.factor) + self.extra
        (ctx.output / "count.txt").write_text(number, encoding="utf-8")
        if self.fail:
            raise OSError("disk full")
        return {"shards": shard.read_text(encoding="utf-8")}

    def double(self, ctx: BuildContext, settings: Settings) -> dict[str, Any]:
        self.ran.append("double")
        number = 2 * int((ctx.input("count") / "count.txt").read_text(encoding="utf-8"))
        (ctx.output / "double.txt").write_text(str(number), encoding="utf-8")
        return {"number": number}

    def steps(self) -> list[Step]:
        return [
            Step(name="count", needs=(), settings=CountSettings, run=self.count, help="counting"),
            Step(name="double", needs=("count",), settings=Settings, run=self.double, help="doubling"),
        ]


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    folder = tmp_path / "catalogue"
    write_catalogue(folder, pl.DataFrame({"product_id": ["a", "b", "c"], "title": ["Ash", "Birch", "Cedar"]}))
    return folder


def pipeline(recorder: Recorder, tmp_path: Path, catalogue: Path, **options: Any) -> Pipeline:
    console = Console(file=io.StringIO())
    return Pipeline(recorder.steps(), tmp_path / "build", catalogue, console=console, **options)


def test_second_run_builds_nothing(tmp_path: Path, catalogue: Path) -> None:
    recorder = Recorder()
    first = pipeline(recorder, tmp_path, catalogue).run()
    second = pipeline(recorder, tmp_path, catalogue).run()
    assert recorder.ran == ["count", "double"]
    assert first == second
    assert first["steps"]["double"]["figures"]["number"] == 6
    assert set(first["steps"]["double"]["files"]) == {"double.txt"}


def test_changed_setting_rebuilds_what_depends_on_it(tmp_path: Path, catalogue: Path) -> None:
    recorder = Recorder()
    pipeline(recorder, tmp_path, catalogue).run()
    manifest = pipeline(recorder, tmp_path, catalogue, overrides={"count": {"factor": "5"}}).run()
    assert recorder.ran == ["count", "double"] * 2
    assert manifest["steps"]["double"]["figures"]["number"] == 30


def test_settings_hold_until_others_are_given(tmp_path: Path, catalogue: Path) -> None:
    recorder = Recorder()
    pipeline(recorder, tmp_path, catalogue, overrides={"count": {"factor": "5"}}).run()
    manifest = pipeline(recorder, tmp_path, catalogue).run()
    assert recorder.ran == ["count", "double"]
    assert manifest["steps"]["double"]["figures"]["number"] == 30
    manifest = pipeline(recorder, tmp_path, catalogue, overrides={"count": {"factor": 1}}).run()
    assert manifest["steps"]["double"]["figures"]["number"] == 6


def test_a_step_built_anew_by_force_has_its_followers_built_anew(tmp_path: Path, catalogue: Path) -> None:
    recorder = Recorder()
    pipeline(recorder, tmp_path, catalogue).run()
    pipeline(recorder, tmp_path, catalogue).run("count", force=True)
    pipeline(recorder, tmp_path, catalogue).run()
    assert recorder.ran == ["count", "double", "count"]  # the same bytes as before
    recorder.extra = "0"
    pipeline(recorder, tmp_path, catalogue).run("count", force=True)
    manifest = pipeline(recorder, tmp_path, catalogue).run()
    assert recorder.ran[3:] == ["count", "double"]
    assert manifest["steps"]["double"]["figures"]["number"] == 60


def test_changed_catalogue_rebuilds(tmp_path: Path, catalogue: Path) -> None:
    recorder = Recorder()
    pipeline(recorder, tmp_path, catalogue).run()
    write_catalogue(catalogue, pl.DataFrame({"product_id": ["a"], "title": ["Ash"]}))
    assert pipeline(recorder, tmp_path, catalogue).run()["steps"]["double"]["figures"]["number"] == 2


def test_failure_keeps_the_previous_build_and_the_work(tmp_path: Path, catalogue: Path) -> None:
    recorder = Recorder()
    pipeline(recorder, tmp_path, catalogue).run()
    before = (tmp_path / "build/manifest.json").read_text(encoding="utf-8")
    recorder.fail = True
    with pytest.raises(OSError, match="disk full"):
        pipeline(recorder, tmp_path, catalogue, overrides={"count": {"factor": 7}}).run()
    assert (tmp_path / "build/count/count.txt").read_text(encoding="utf-8") == "3"
    assert (tmp_path / "build/manifest.json").read_text(encoding="utf-8") == before
    recorder.fail = False
    resumed = pipeline(recorder, tmp_path, catalogue, overrides={"count": {"factor": 7}}).run()
    assert resumed["steps"]["count"]["figures"]["shards"] == "xx", "the interrupted run's work is taken up"
    assert not (tmp_path / "build/.work/count").exists()


def test_work_of_other_settings_is_not_resumed(tmp_path: Path, catalogue: Path) -> None:
    recorder = Recorder()
    recorder.fail = True
    with pytest.raises(OSError, match="disk full"):
        pipeline(recorder, tmp_path, catalogue).run()
    recorder.fail = False
    manifest = pipeline(recorder, tmp_path, catalogue, overrides={"count": {"factor": 2}}).run()
    assert manifest["steps"]["count"]["figures"]["shards"] == "x"


def test_damaged_catalogue_leaves_the_build_alone(tmp_path: Path, catalogue: Path) -> None:
    recorder = Recorder()
    pipeline(recorder, tmp_path, catalogue).run()
    (catalogue / "products.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(CatalogueError, match=r"products\.parquet"):
        pipeline(recorder, tmp_path, catalogue).run()
    assert (tmp_path / "build/double/double.txt").read_text(encoding="utf-8") == "6"
    assert json.loads((tmp_path / "build/manifest.json").read_text(encoding="utf-8"))["steps"].keys() == {
        "count",
        "double",
    }


def test_one_step_alone(tmp_path: Path, catalogue: Path) -> None:
    recorder = Recorder()
    with pytest.raises(BuildError, match="step double needs count, which is missing"):
        pipeline(recorder, tmp_path, catalogue).run("double")
    pipeline(recorder, tmp_path, catalogue).run("count")
    pipeline(recorder, tmp_path, catalogue).run("double")
    pipeline(recorder, tmp_path, catalogue).run("double", force=True)
    assert recorder.ran == ["count", "double", "double"]
    assert read_manifest(tmp_path / "build")["steps"].keys() == {"count", "double"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"count": {"factor": 0}}, r"count\.factor: .*greater than or equal to 1, got 0"),
        ({"count": {"faktor": 2}}, r"count\.faktor: .*not permitted, got 2; the settings of count are factor"),
        ({"counts": {}}, "unknown step 'counts' .* the steps are count, double"),
    ],
)
def test_wrong_settings(tmp_path: Path, catalogue: Path, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        pipeline(Recorder(), tmp_path, catalogue, overrides=overrides)


def test_a_cut_is_kept(tmp_path: Path) -> None:
    """What a build was told to leave out it leaves out in every step, and tells whoever measures it."""
    folder = tmp_path / "catalogue"
    days = [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
    events = pl.DataFrame({"user_id": "u", "product_id": "a", "timestamp": days, "type": "purchase"})
    write_catalogue(folder, pl.DataFrame({"product_id": ["a"], "title": ["Ash"]}), events)
    seen: list[int] = []

    def look(ctx: BuildContext, settings: Settings) -> dict[str, Any]:
        seen.append(ctx.catalogue.events.height if ctx.catalogue.events is not None else 0)
        return {}

    def build(**overrides: Any) -> None:
        steps = [catalogue_step.STEP, Step("look", "looking", ("catalogue",), Settings, look)]
        console = Console(file=io.StringIO())
        Pipeline(steps, tmp_path / "build", folder, overrides=overrides, console=console).run()

    build()
    build(catalogue={"events_until": "2024-01-03"})
    build()
    assert seen == [3, 2]
    assert cut_of(tmp_path / "build") == EventCut(events_until="2024-01-03")
    outside = build_context(tmp_path / "build", folder, tmp_path / "work", Console(file=io.StringIO()))
    assert outside.catalogue.events is not None
    assert outside.catalogue.events.height == 2
    build(catalogue={"events_until": ""})
    assert seen == [3, 2, 3]


def test_a_package_that_a_later_step_lacks_is_named_before_anything_is_built(tmp_path: Path) -> None:
    def never(context: BuildContext, settings: Settings) -> dict[str, Any]:
        raise AssertionError("it began")

    first = Step("first", "works", (), Settings, never)
    last = Step("last", "lacks a package", (), Settings, never, packages={"no_such.package": "install it"})
    write_catalogue(tmp_path / "catalogue", pl.DataFrame({"product_id": ["a"], "title": ["Lamp"]}))
    pipeline = Pipeline([first, last], tmp_path / "build", tmp_path / "catalogue", console=Console(file=io.StringIO()))
    with pytest.raises(BuildError, match=r"last: expected the package no_such\.package, found none; install it"):
        pipeline.run()
