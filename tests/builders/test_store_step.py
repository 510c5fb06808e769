"""Steps bi_encoder, store and index on a small catalogue with a tiny encoder."""

import json
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np
import polars as pl
import pytest
import tiny_encoders
from endcap_builders.pipeline import Pipeline
from endcap_builders.step import BuildError
from endcap_builders.steps import bi_encoder, captions, catalogue, index, lexical, store
from endcap_server.engines.bi_encoder import BiEncoder, load_tokenizer
from endcap_server.engines.encoder_runtime import RuntimeOptions
from endcap_server.engines.nearest import Nearest, NearestRequest, NearestResult
from endcap_server.shop.store import ItemStore, tokenizer_digest
from rich.console import Console

STEPS = [catalogue.STEP, bi_encoder.STEP, captions.STEP, store.STEP, index.STEP, lexical.STEP]
N = 120


def write_catalogue(folder: Path) -> None:
    folder.mkdir()
    titles = tiny_encoders.random_titles(N)
    titles[0] = "Brass Table Lamp"
    titles[1:6] = ["Table Lamp"] * 5
    pl.DataFrame(
        {
            "product_id": [f"p{row}" for row in range(N)],
            "title": titles,
            "description": ["<p>made of oak</p>"] * N,
            "brand": (["Acme", "", "Borealis"] * N)[:N],
            "category": ["Home > Lamps" if "lamp" in title.lower() else "Home > Other" for title in titles],
            "price": [None, *range(1, N)],
            "in_stock": [row % 10 != 0 for row in range(N)],
        },
        schema_overrides={"price": pl.Float32},
    ).write_parquet(folder / "products.parquet")
    pl.DataFrame({"query": ["table lamp", "zzz qqq"], "count": [9, 2]}).write_parquet(folder / "queries.parquet")
    pl.DataFrame(
        {
            "user_id": ["u"] * 3,
            "product_id": ["p1", "p1", "p2"],
            "timestamp": [datetime(2025, 1, day, tzinfo=UTC) for day in (1, 2, 3)],
            "type": ["view", "purchase", "view"],
        }
    ).write_parquet(folder / "events.parquet")


def build_pipeline(folder: Path, **overrides: dict[str, object]) -> Pipeline:
    settings = {
        "bi_encoder": {"checkpoint": str(folder / "checkpoint")},
        "store": {"keyword_least_similarity": 1.0, "max_product_tokens": 12},
    }
    settings = {name: {**settings.get(name, {}), **overrides.get(name, {})} for name in {*settings, *overrides}}
    quiet = Console(quiet=True)
    return Pipeline(STEPS, folder / "build", folder / "catalogue", overrides=settings, console=quiet)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_catalogue(folder / "catalogue")
    tiny_encoders.write_sentence_checkpoint(folder / "checkpoint")
    build_pipeline(folder).run()
    return folder


@pytest.fixture(scope="module")
def items(folder: Path) -> ItemStore:
    return ItemStore.open(folder / "build")


def test_encoder_equals_sentence_transformers(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(folder / "checkpoint"), device="cpu")
    encoder = BiEncoder(folder / "build" / "bi_encoder", RuntimeOptions(precision="f32"))
    texts = ["lamp", "", "a red rug for the garden " * 3]
    for kind in ("query", "document"):
        expected = reference.encode(texts, prompt_name=kind)
        assert (encoder.encode(texts, kind) * expected).sum(axis=1) == pytest.approx(1.0, abs=1e-4)
    assert encoder.config.query_prompt == "tea "


def test_product_columns(items: ItemStore) -> None:
    assert len(items) == N
    assert items.titles[0] == "Brass Table Lamp"
    assert items.brands == ["Acme", "Borealis"]
    assert items.brand[:3].tolist() == [0, -1, 1]
    assert items.categories == ["Home > Lamps", "Home > Other"]
    assert items.category[0] == 0
    assert np.isnan(items.price[0])
    assert items.price[5] == 5
    assert not items.in_stock[10]
    assert items.popularity[1] == 1
    assert 0 < items.popularity[2] < 1
    assert items.popularity[3] == 0
    np.testing.assert_allclose(np.linalg.norm(items.vectors.astype(np.float32), axis=1), 1.0, atol=2e-3)


def test_vectors_are_those_of_the_texts(folder: Path, items: ItemStore) -> None:
    encoder = BiEncoder(folder / "build" / "bi_encoder")
    text = store.product_text("Brass Table Lamp", "Acme", "Home > Lamps", "", description_words=0)
    assert text == "Brass Table Lamp. Acme. lamps"
    assert float(encoder.encode([text], "document")[0] @ items.vectors[0].astype(np.float32)) > 0.999


def test_tokens_begin_with_the_title_and_keep_the_limit(folder: Path, items: ItemStore) -> None:
    tokenizer = load_tokenizer(folder / "build" / "store" / "tokenizer.json")
    assert tokenizer.decode(items.tokens.row(0).tolist()).startswith("brass table lamp")
    assert np.diff(items.tokens.offsets).max() == items.max_product_tokens == 12
    assert items.tokenizer == tokenizer_digest(tokenizer)


def test_product_text_says_nothing_twice_and_takes_markup_out() -> None:
    text = store.product_text(
        "Acme Oak Lamps", "ACME", "Home > Lamps", "<b>Made</b> of  oak, by hand", description_words=3
    )
    assert text == "Acme Oak Lamps. Made of oak,"


def test_keywords_retrieve_products(items: ItemStore) -> None:
    keywords = list(items.keywords)
    assert keywords[0] == "table lamp"
    assert items.keyword_counts[0] == 9
    assert "zzz qqq" not in keywords
    assert "lamps" in keywords
    first = items.keyword_products[0]
    holding = [row for row, title in enumerate(items.titles) if {"table", "lamp"} <= set(title.lower().split())]
    assert set(first[: len(holding)].tolist()) == set(holding)
    assert items.categories[items.keyword_category[keywords.index("lamps")]] == "Home > Lamps"
    assert (items.keyword_products[:, 0] >= 0).all()


def test_nearest_on_the_build(folder: Path, items: ItemStore) -> None:
    nearest = Nearest(folder / "build")
    (result,) = nearest.run([NearestRequest(vectors=items.vectors[[7]], k=1)])
    assert isinstance(result, NearestResult)
    assert result.similarity[0, 0] > 0.999
    figures = json.loads((folder / "build" / "index" / "index.json").read_text(encoding="utf-8"))
    assert figures["products"] == {"rows": N, "kind": "exact", "recall_at_100": pytest.approx(1.0, abs=0.02)}


@pytest.mark.parametrize(("least", "fewer"), [(0.5, True), (1.0, False)])
def test_lists_above_the_limit(folder: Path, least: float, fewer: bool) -> None:
    """As many lists are searched as the recall takes; with all of them only ties are lost, by rounding to fp16."""
    overrides = {"index": {"exact_up_to": 10, "least_recall": least}}
    manifest = build_pipeline(folder, **overrides).run("index", force=True)
    figures = manifest["steps"]["index"]["figures"]["products"]
    assert figures["recall_at_100"] >= min(least, 0.99)
    read = faiss.downcast_index(faiss.read_index(str(folder / "build" / "index" / "products.faiss")))
    assert figures["kind"] == f"the nearest {read.nprobe} of {read.nlist} lists"
    assert (read.nprobe < read.nlist) == fewer
    items = ItemStore.open(folder / "build")
    assert (items.keyword_products[:, 0] >= 0).all()
    (result,) = Nearest(folder / "build").run([NearestRequest(vectors=items.vectors[[7]], k=1)])
    assert isinstance(result, NearestResult)
    assert result.similarity[0, 0] > 0.999


@pytest.mark.parametrize(
    ("overrides", "step", "message"),
    [
        ({"bi_encoder": {"checkpoint": "/nowhere"}}, "bi_encoder", "bi_encoder.checkpoint: expected"),
        (
            {"store": {"tokenizer": "/nowhere.json"}},
            "store",
            r"store\.tokenizer: expected a checkpoint or its tokenizer\.json, got /nowhere",
        ),
    ],
)
def test_wrong_settings(folder: Path, overrides: dict[str, dict[str, object]], step: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        build_pipeline(folder, **overrides).run(step, force=True)
    assert (folder / "build" / step).is_dir()  # what was built stays
