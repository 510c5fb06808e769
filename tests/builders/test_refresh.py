"""A refresh: what is written anew, what is kept and said to be so, and what it refuses."""

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from endcap_builders.build_folder import locked
from endcap_builders.catalogue import write_catalogue
from endcap_builders.gates import Gate, gate_figures, gates_table, write_gates
from endcap_builders.manifest import read_manifest
from endcap_builders.pipeline import Pipeline
from endcap_builders.refresh import kept_models, refresh
from endcap_builders.step import BuildContext, BuildError, SettingError, Settings, Step
from endcap_builders.steps import all_steps
from endcap_builders.steps import catalogue as catalogue_step
from endcap_builders.steps import gates as gates_step
from endcap_server.shop.columns import StringColumn
from pydantic import Field
from rich.console import Console

PRODUCTS = pl.DataFrame({"product_id": ["a", "b", "c"], "title": ["Ash", "Birch", "Cedar"], "brand": ["x", "y", "z"]})
CHANGED = pl.DataFrame({"product_id": ["b", "c", "d"], "title": ["Birch", "Cherry", "Dogwood"], "brand": ["y"] * 3})


class StoreSettings(Settings):
    limit: int = Field(9, description="which the model learns with")
    colour: str = Field("red", description="which no model learns with")


class ModelSettings(Settings):
    epochs: int = Field(1, description="passes")


class Shop:
    """A small pipeline of every kind of step; `ran` lists what was run, `fails` is a step that fails."""

    def __init__(self, folder: Path, products: pl.DataFrame = PRODUCTS) -> None:
        self.build, self.catalogue = folder / "build", folder / "catalogue"
        self.ran: list[str] = []
        self.fails = ""
        self.on_write: Callable[[], None] = lambda: None
        write_catalogue(self.catalogue, products)

    def write(self, name: str) -> Any:
        def run(ctx: BuildContext, settings: Settings) -> dict[str, Any]:
            self.ran.append(name)
            self.on_write()
            if name == "encoder":
                return {}
            StringColumn.write(ctx.output, "product_ids", ctx.catalogue.products["product_id"].to_list())
            (ctx.output / "titles.txt").write_text(" ".join(ctx.catalogue.products["title"]), encoding="utf-8")
            if name == "teacher":
                write_gates(ctx.output, [Gate(name, "order", 0.8, (0.7, 0.9), "BM25", 0.6)])
            if self.fails == name:
                raise OSError("disk full")
            return {}

        return run

    def steps(self) -> list[Step]:
        needs = ("catalogue", "store")
        models = {name: Step(name, "learning", (), ModelSettings, self.write(name)) for name in gates_step.COMPARED}
        learned = [replace(step, needs=(*needs, "examples"), on_refresh="learned") for step in models.values()]
        return [
            catalogue_step.STEP,
            Step(
                "encoder", "exporting", ("catalogue",), ModelSettings, self.write("encoder"),
                reads={"catalogue": ()}, on_refresh="fixed",
            ),
            Step(
                "store", "storing", ("catalogue", "encoder"), StoreSettings, self.write("store"),
                shapes={"limit": ("teacher",)},
            ),
            Step("examples", "writing examples", needs, ModelSettings, self.write("examples"), on_refresh="examples"),
            *learned,
            gates_step.STEP,
        ]  # fmt: skip

    def pipeline(self, **options: Any) -> Pipeline:
        self.ran.clear()
        self.said = io.StringIO()
        return Pipeline(self.steps(), self.build, self.catalogue, console=Console(file=self.said, width=200), **options)

    def refreshed(self, *retrain: str, force: bool = False, **options: Any) -> dict[str, Any]:
        return refresh(self.pipeline(**options), retrain, force=force)


MODELS = list(gates_step.COMPARED)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    made = Shop(tmp_path)
    made.pipeline().run()
    write_catalogue(made.catalogue, CHANGED)
    return made


def titles(shop: Shop, step: str) -> str:
    return (shop.build / step / "titles.txt").read_text(encoding="utf-8")


def test_tables_follow_the_catalogue_and_models_stay(shop: Shop) -> None:
    before = read_manifest(shop.build)
    manifest = shop.refreshed()
    assert shop.ran == ["store"]
    assert (titles(shop, "store"), titles(shop, "teacher")) == ("Birch Cherry Dogwood", "Ash Birch Cedar")
    assert "1 products added, 1 removed, 2 stay" in shop.said.getvalue()
    assert manifest["catalogue"]["digest"] != before["catalogue"]["digest"]
    for name in MODELS:
        entry, earlier = manifest["steps"][name], before["steps"][name]
        assert entry["catalogue"] == before["catalogue"]["digest"], "the one that it learned from"
        assert {**entry, "kept": None} == {**earlier, "kept": None}
        assert entry["kept"]["read"]["store"] == manifest["steps"]["store"]["files"]
        assert entry["read"]["store"] == before["steps"]["store"]["files"]
    assert manifest["steps"]["store"]["catalogue"] == manifest["catalogue"]["digest"]


def test_nothing_to_do(shop: Shop) -> None:
    shop.refreshed()
    before = (shop.build / "manifest.json").read_bytes()
    shop.refreshed()
    assert shop.ran == []
    assert "nothing to do" in shop.said.getvalue()
    assert (shop.build / "manifest.json").read_bytes() == before
    shop.refreshed(force=True)
    assert shop.ran == ["store"]


def test_an_interrupted_refresh_goes_on(shop: Shop) -> None:
    shop.fails = "store"
    with pytest.raises(OSError, match="disk full"):
        shop.refreshed()
    assert titles(shop, "store") == "Ash Birch Cedar"
    shop.fails = ""
    shop.refreshed()
    assert shop.ran == ["store"]
    assert kept_models(read_manifest(shop.build)).keys() == {*MODELS, "examples"}


def killed_refresh(folder: Path, at: str) -> None:
    """In a process of its own: a refresh that is killed."""

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def rename(path: Path, target: Path) -> None:
        os.rename(path, target)
        if path.name == "store":
            kill()  # The former folder has been moved away.

    def record(pipeline: Pipeline, step: Step, *arguments: Any) -> None:
        if step.name == "store":
            kill()
        recorded(pipeline, step, *arguments)

    shop, recorded = Shop(folder, CHANGED), Pipeline._record
    if at == "while the store is written":
        shop.on_write = kill
    elif at == "while it is replaced":
        Path.rename = rename  # type: ignore[method-assign,assignment]
    else:
        Pipeline._record = record  # type: ignore[method-assign]
    shop.refreshed()


@pytest.mark.parametrize("at", ["while the store is written", "while it is replaced", "before it is in the manifest"])
def test_a_killed_refresh_goes_on(shop: Shop, at: str) -> None:
    """Neither the former store nor a model is lost, and nobody is locked out."""
    process = multiprocessing.get_context("spawn").Process(target=killed_refresh, args=(shop.build.parent, at))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    manifest = shop.refreshed()
    assert shop.ran == ["store"]
    assert (titles(shop, "store"), titles(shop, "teacher")) == ("Birch Cherry Dogwood", "Ash Birch Cedar")
    assert kept_models(manifest).keys() == {*MODELS, "examples"}
    assert not list(shop.build.glob(".*.old"))
    assert not list(shop.build.glob(".*.new"))


def test_only_one_process_builds_in_a_folder(shop: Shop) -> None:
    with shop.pipeline().alone():
        for build in (shop.refreshed, lambda: shop.pipeline().run()):
            with pytest.raises(BuildError, match="expected no other build in this folder, got one that is running"):
                build()
    shop.refreshed()
    assert shop.ran == ["store"]


def test_a_worker_that_outlives_a_step_does_not_keep_the_folder(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    ended = fork.Event()
    with locked(tmp_path):
        worker = fork.Process(target=ended.wait)
        worker.start()
    try:
        with locked(tmp_path):
            assert worker.is_alive()
    finally:
        ended.set()
        worker.join()


def test_a_later_build_says_that_it_trains(shop: Shop) -> None:
    shop.refreshed()
    shop.pipeline().run()
    assert shop.ran == ["examples", *MODELS]
    assert f"a refresh kept examples, {', '.join(MODELS)}: models are trained again" in shop.said.getvalue()
    assert kept_models(read_manifest(shop.build)) == {}
    shop.pipeline().run()
    assert shop.ran == []
    assert "trained again" not in shop.said.getvalue()


def test_a_build_of_a_changed_catalogue_says_that_it_trains(shop: Shop) -> None:
    shop.pipeline().run()
    assert "the catalogue has changed: models are trained again" in shop.said.getvalue()
    assert "--refresh" in shop.said.getvalue()


def test_a_step_alone_takes_models_that_were_kept(shop: Shop) -> None:
    shop.refreshed()
    shop.pipeline().run("gates", force=True)
    assert shop.ran == []
    assert len(kept_models(read_manifest(shop.build))) == len(MODELS) + 1


def test_the_former_catalogue_again(shop: Shop) -> None:
    shop.refreshed()
    write_catalogue(shop.catalogue, PRODUCTS)
    manifest = shop.refreshed()
    assert shop.ran == ["store"]
    assert kept_models(manifest) == {}, "they were made from this catalogue"


def test_what_is_learned_anew_learns_from_new_examples(shop: Shop) -> None:
    manifest = shop.refreshed("ranker")
    assert shop.ran == ["store", "examples", "ranker"]
    assert titles(shop, "ranker") == "Birch Cherry Dogwood"
    assert kept_models(manifest).keys() == set(MODELS) - {"ranker"}
    shop.refreshed("ranker")
    assert shop.ran == [], "an interrupted refresh does not learn twice"
    shop.refreshed("teacher")
    assert shop.ran == ["teacher"]


def test_the_last_table_tells_what_was_kept(shop: Shop) -> None:
    manifest = shop.refreshed()
    out = io.StringIO()
    Console(file=out, width=200).print(gates_table(gate_figures(manifest), kept_models(manifest)))
    built = manifest["steps"]["teacher"]["built"][:10]
    told = f"Kept by a refresh; measured when they were built, not on this catalogue: teacher ({built})"
    assert told in " ".join(out.getvalue().split())


def test_kept_models_of_other_code_say_so(shop: Shop) -> None:
    path = shop.build / "manifest.json"
    manifest = read_manifest(shop.build)
    manifest["steps"]["teacher"]["code"] = "earlier"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    shop.refreshed()
    [line] = [line for line in shop.said.getvalue().splitlines() if "teacher" in line]
    assert line.endswith("by another version of its code")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"teacher": {"epochs": 2}}, r"teacher\.epochs: expected 1, which teacher learned with, got 2; add --retrain "),
        (
            {"store": {"limit": 3}},
            r"store\.limit: expected 9, which teacher learned with, got 3; add --retrain teacher,",
        ),
        ({"encoder": {"epochs": 2}}, r"encoder\.epochs: .* run endcap build without --refresh"),
        ({"examples": {"epochs": 2}}, r"examples\.epochs: expected 1, from which models learn, .* --retrain teacher "),
    ],
)
def test_settings_that_take_training(shop: Shop, overrides: dict[str, Any], message: str) -> None:
    before = (shop.build / "manifest.json").read_bytes()
    with pytest.raises(SettingError, match=message):
        shop.refreshed(overrides=overrides)
    assert (shop.ran, (shop.build / "manifest.json").read_bytes()) == ([], before)


def test_settings_of_what_is_written_or_learned_anew(shop: Shop) -> None:
    manifest = shop.refreshed("teacher", overrides={"store": {"limit": 3, "colour": "blue"}, "teacher": {"epochs": 2}})
    assert shop.ran == ["store", "examples", "teacher"]
    assert manifest["steps"]["teacher"]["settings"] == {"epochs": 2}


@pytest.mark.parametrize(
    ("retrain", "message"),
    [
        ("store", r"expected steps that learn \(teacher, .*\), got store; leave it out"),
        ("nothing", "got nothing; leave it out"),
        ("encoder", "got encoder; everything depends on it: run endcap build without --refresh"),
    ],
)
def test_steps_that_do_not_learn(shop: Shop, retrain: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        shop.refreshed(retrain)


@pytest.mark.parametrize(
    ("options", "message"), [({"seed": 8}, "--seed: expected 7"), ({"profile": "gpu"}, "--profile")]
)
def test_another_seed_or_profile(shop: Shop, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        shop.refreshed(**options)


def test_a_build_without_finished_models(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.fails = "ranker"
    with pytest.raises(OSError, match="disk full"):
        shop.pipeline().run()
    shop.fails = ""
    with pytest.raises(BuildError, match=r"expected them built, found no ranker; run `endcap build --catalogue "):
        shop.refreshed()
    shop.refreshed("ranker")
    assert shop.ran == ["ranker"]


def test_an_empty_folder(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    with pytest.raises(BuildError, match="found no catalogue, encoder, store, examples, teacher"):
        shop.refreshed()
    assert not shop.build.exists()


@pytest.mark.parametrize(
    ("products", "message"),
    [
        (
            CHANGED.with_columns(product_id="new " + pl.col("product_id")),
            r"none of its 3 \('new b' instead of .* 'a'\)",
        ),
        (CHANGED.drop("brand"), r"products\.parquet: expected the column brand, with which the models were trained"),
    ],
)
def test_catalogues_that_are_no_successor(shop: Shop, products: pl.DataFrame, message: str) -> None:
    write_catalogue(shop.catalogue, products)
    with pytest.raises(BuildError, match=message):
        shop.refreshed()
    assert shop.ran == []


def test_a_table_that_is_gone_and_a_column_that_is_new(shop: Shop) -> None:
    write_catalogue(shop.catalogue, CHANGED.with_columns(price=1.0), queries=pl.DataFrame({"query": "q", "count": [1]}))
    shop.refreshed()
    assert "products.parquet: the models were trained without price" in shop.said.getvalue()
    write_catalogue(shop.catalogue, CHANGED.with_columns(price=1.0))
    with pytest.raises(BuildError, match=r"queries\.parquet: expected this file, with which the models were trained"):
        shop.refreshed()


def test_the_steps_of_a_build() -> None:
    steps = {step.name: step for step in all_steps()}
    kinds = {name: step.on_refresh for name, step in steps.items()}
    assert {name for name, kind in kinds.items() if kind == "learned"} == set(gates_step.COMPARED)
    assert (kinds["bi_encoder"], kinds["merchandising"]) == ("fixed", "examples")
    for step in steps.values():
        for setting, models in step.shapes.items():
            assert setting in step.settings.model_fields
            assert {kinds[model] for model in models} == {"learned"}


def test_a_build_starts_without_what_only_training_needs() -> None:
    # These take ten times as long to import as a refresh of a small shop.
    program = "import sys; from endcap_builders.steps import all_steps; all_steps(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers", "sklearn", "lightgbm", "openai", "openvino"} & set(loaded.split())
