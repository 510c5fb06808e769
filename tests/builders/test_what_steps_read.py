"""What the steps of a build read: who is built anew when a part of the catalogue changes."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from endcap_builders.catalogue import read_catalogue, write_catalogue
from endcap_builders.catalogue.groups import FACTS, GROUPS, TEXTS, group_digests, restricted
from endcap_builders.pipeline import Pipeline
from endcap_builders.step import BuildContext, Settings, Step
from endcap_builders.steps import all_steps
from endcap_builders.steps.catalogue import STEP as CATALOGUE
from endcap_builders.steps.store import TEXTS_ONLY, WITHOUT_FACTS
from rich.console import Console

TRAINED = ("merchandising", "teacher", "cross_encoder", "theme_llm", "keyword_llm", "ranker")
PRODUCTS = pl.DataFrame({
    "product_id": ["a", "b"], "title": ["Ash", "Birch"], "price": [1.0, 2.0], "in_stock": [True, True]
})  # fmt: skip


def steps_with(ran: list[str]) -> list[Step]:
    """The real first step, one that stores two columns, one that learns from the texts alone."""

    def store(ctx: BuildContext, settings: Settings) -> dict[str, Any]:
        ran.append("store")
        products = ctx.catalogue.products
        np.save(ctx.output / "price.npy", products["price"].to_numpy())
        (ctx.output / "titles.txt").write_text(" ".join(products["title"]), encoding="utf-8")
        return {}

    def model(ctx: BuildContext, settings: Settings) -> dict[str, Any]:
        ran.append("model")
        (ctx.output / "model.txt").write_text((ctx.input("store") / "titles.txt").read_text("utf-8"), encoding="utf-8")
        return {}

    return [
        CATALOGUE,
        Step("store", "storing", ("catalogue",), Settings, store, reads={"catalogue": (TEXTS, FACTS)}),
        Step(
            "model", "training", ("catalogue", "store"), Settings, model,
            reads={"catalogue": (TEXTS,), "store": WITHOUT_FACTS},
        ),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("products", "expected"),
    [
        (PRODUCTS.with_columns(price=pl.lit(9.0)), ["store"]),
        (PRODUCTS.with_columns(in_stock=pl.lit(False)), ["store"]),
        (PRODUCTS.with_columns(title=pl.lit("Cedar")), ["store", "model"]),
        (PRODUCTS.select("in_stock", "price", "title", "product_id"), []),
    ],
    ids=["price", "stock", "title", "the same in another order of columns"],
)
def test_a_changed_fact_trains_nothing(tmp_path: Path, products: pl.DataFrame, expected: list[str]) -> None:
    folder, ran = tmp_path / "catalogue", list[str]()
    for frame in (PRODUCTS, products):
        ran.clear()
        write_catalogue(folder, frame)
        Pipeline(steps_with(ran), tmp_path / "build", folder, console=Console(file=io.StringIO())).run()
    assert ran == expected


def test_the_trained_steps_of_a_build_read_no_facts() -> None:
    store = {"titles.bytes.npy": "1", "price.npy": "2", "in_stock.npy": "3", "keywords.bytes.npy": "4"}
    for step in all_steps():
        if step.name in TRAINED:
            assert FACTS not in step.groups, step.name
            if "store" in step.needs:
                assert not {"price.npy", "in_stock.npy"} & step.files_read("store", store).keys(), step.name
                assert step.files_read("store", store), step.name


def test_judging_relevance_does_not_depend_on_behaviour() -> None:
    steps = {step.name: step for step in all_steps()}
    for name in ("teacher", "cross_encoder"):
        assert steps[name].reads["store"] == TEXTS_ONLY
        assert not {"events", "queries"} & steps[name].groups


def test_a_step_sees_only_the_groups_that_it_declares(tmp_path: Path) -> None:
    write_catalogue(tmp_path, PRODUCTS, queries=pl.DataFrame({"query": ["ash"], "count": [3]}))
    catalogue = read_catalogue(tmp_path)
    seen = restricted(catalogue, frozenset({TEXTS}))
    assert "price" not in seen.products.columns
    assert seen.folder == catalogue.folder
    with pytest.raises(LookupError, match=r"reads queries .* add queries"):
        _ = seen.queries
    whole = restricted(catalogue, frozenset(GROUPS))
    assert whole.products.equals(catalogue.products)
    assert whole.queries is not None


def test_digests_of_groups(tmp_path: Path) -> None:
    write_catalogue(tmp_path, PRODUCTS)
    before = group_digests(read_catalogue(tmp_path))
    write_catalogue(tmp_path, PRODUCTS.with_columns(price=pl.lit(None, pl.Float64)))
    after = group_digests(read_catalogue(tmp_path))
    assert {name for name in GROUPS if before[name] != after[name]} == {FACTS}
    assert before["events"] == ""
