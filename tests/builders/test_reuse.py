"""Reuse of vectors and tokens by the step `store`: only changed texts are computed, with results as from scratch."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tiny_encoders
from endcap_builders.catalogue import write_catalogue
from endcap_builders.pipeline import Pipeline
from endcap_builders.reuse import text_hashes
from endcap_builders.steps import bi_encoder, captions, catalogue, store
from endcap_server.shop.store import ItemStore
from rich.console import Console

N = 80
ALL = {"products": N, "keywords": 3, "tokens": N}
SEARCHES = pl.DataFrame({"query": ["table lamp", "zzz qqq", "oak desk"], "count": [9, 5, 2]})


def products() -> pl.DataFrame:
    titles = tiny_encoders.random_titles(N)
    titles[:6] = ["Table Lamp"] * 3 + ["Oak Desk"] * 3
    return pl.DataFrame(
        {
            "product_id": [f"p{row}" for row in range(N)],
            "title": titles,
            "description": ["made of oak"] * N,
            "price": [float(row) for row in range(N)],
        }
    )


class Shop:
    """The steps up to `store` on a small catalogue with a tiny encoder."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.folder, self.checkpoint = folder, checkpoint

    def write(self, changed: pl.DataFrame, queries: pl.DataFrame = SEARCHES) -> None:
        write_catalogue(self.folder / "catalogue", changed, queries=queries)

    def built(
        self, name: str = "build", *, force: bool = False, encoder: dict[str, Any] | None = None, **settings: Any
    ) -> tuple[ItemStore, dict[str, int]]:
        """The item store, and how many texts were computed."""
        overrides = {
            "bi_encoder": {"checkpoint": str(self.checkpoint), **(encoder or {})},
            "store": {"keyword_least_similarity": 1.0, "keyword_least_products": 1000, **settings},
        }
        steps = [catalogue.STEP, bi_encoder.STEP, captions.STEP, store.STEP]
        quiet = Console(quiet=True)
        pipeline = Pipeline(steps, self.folder / name, self.folder / "catalogue", overrides=overrides, console=quiet)
        manifest = pipeline.run("store" if force else None, force=force)
        return ItemStore.open(self.folder / name), manifest["steps"]["store"]["figures"]["computed"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A built shop, not to be written to."""
    folder = tmp_path_factory.mktemp("shop")
    tiny_encoders.write_sentence_checkpoint(folder / "checkpoint")
    made = Shop(folder / "own", folder / "checkpoint")
    made.write(products())
    assert made.built()[1] == ALL
    return made


@pytest.fixture
def shop(finished: Shop, tmp_path: Path) -> Shop:
    shutil.copytree(finished.folder, tmp_path / "own")
    return Shop(tmp_path / "own", finished.checkpoint)


def assert_same(one: ItemStore, other: ItemStore) -> None:
    """Everything is equal, vectors but for the rounding of batches of other sizes."""
    for name in ("vectors", "keyword_vectors"):
        first, second = (getattr(each, name).astype(np.float32) for each in (one, other))
        np.testing.assert_allclose(first, second, atol=1e-3)
    for name in ("product_ids", "titles", "keywords", "caption_tokens"):
        assert list(getattr(one, name)) == list(getattr(other, name)), name
    for name in ("tokens", "captions"):
        for part in ("values", "offsets"):
            np.testing.assert_array_equal(getattr(getattr(one, name), part), getattr(getattr(other, name), part))


def test_only_changed_texts_are_computed(shop: Shop) -> None:
    before = products()
    new = before[:2].with_columns(product_id="new " + pl.col("product_id"), title=pl.lit("Red Mug ") + pl.col("title"))
    renamed = pl.when(pl.col("product_id") == "p70").then(pl.lit("Wool Rug")).otherwise("title").alias("title")
    described = pl.when(pl.col("product_id") == "p60").then(pl.lit("brass")).otherwise("description")
    changed = before.with_columns(renamed, description=described, price=pl.lit(1.0))[5:]
    searches = pl.concat([SEARCHES, pl.DataFrame({"query": ["rug"], "count": [3]})])
    shop.write(pl.concat([changed[:40], new, changed[40:]]), searches)
    items, computed = shop.built()
    # Descriptions are no part of the vectors by default.
    assert computed == {"products": 3, "keywords": 1, "tokens": 4}
    shutil.copytree(shop.folder / "build", shop.folder / "scratch")
    scratch, everything = shop.built("scratch", force=True)
    assert everything == {"products": len(items), "keywords": 4, "tokens": len(items)}
    assert_same(items, scratch)
    assert list(items.keywords) == ["table lamp", "rug", "oak desk"], "the other one finds nothing"


def test_a_forced_step_computes_everything(shop: Shop) -> None:
    assert shop.built(force=True)[1] == ALL


def test_a_damaged_file_is_not_reused(shop: Shop) -> None:
    path = shop.folder / "build/store/vectors.npy"
    values = np.load(path)
    np.save(path, values * 0)
    shop.write(products().with_columns(price=pl.lit(2.0)))
    items, computed = shop.built()
    assert computed == {"products": N, "keywords": 0, "tokens": 0}
    np.testing.assert_allclose(items.vectors, values, atol=1e-3)


def test_what_determines_tokens_counts(shop: Shop) -> None:
    assert shop.built(max_product_tokens=8)[1] == {"products": 0, "keywords": 0, "tokens": N}
    assert shop.built(description_words=5)[1] == {"products": N, "keywords": 0, "tokens": 0}


def test_another_encoder_computes_every_vector(shop: Shop) -> None:
    assert shop.built()[1] == ALL, "nothing ran"
    # Its vectors are others, because it reads fewer tokens of a text.
    assert shop.built(encoder={"max_tokens": 8})[1] == {"products": N, "keywords": 3, "tokens": 0}


def test_hashes_tell_texts_apart() -> None:
    hashes = text_hashes(["oak", "", "oak", "ash"])
    assert hashes.shape == (4, 2)
    assert (hashes[0] == hashes[2]).all()
    assert len(np.unique(hashes, axis=0)) == 3
    assert text_hashes([]).shape == (0, 2)
