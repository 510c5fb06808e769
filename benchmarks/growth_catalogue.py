"""Generated catalogues of any size for `bench_growth`, with vectors that are cheap enough for a million products.

A product of the demo shop is made again and again, each time by another brand and with another series name. Names of
brands and series are made up; there are more brands in a larger catalogue, as in a real one.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from endcap_builders.catalogue.demo import make_demo
from endcap_builders.reuse import Encoder
from endcap_server.engines.bi_encoder import BiEncoder
from endcap_server.shop.columns import Array
from endcap_server.shop.words import words

SEED = 7
UNSEEN = "unseen.json"
"""Searches that are not in the log, beside the catalogue."""
_AT_ONCE = 256
_BASES, _SEARCHES = 6000, 5000
_NAMES = 3000
_SHOPPER_EVENTS, _TASTES = 10, 3
_DAYS = 90
_START = datetime(2026, 7, 1, tzinfo=UTC)
_SYLLABLES = (
    "ba be bo da del do fa fen ga gor ha hal ka kel ku la len lo ma mer mi na nor o pa per ra rin so ta tor va vi"
)


def made_up_names() -> list[str]:
    """Distinct names of two to four syllables; the same in every catalogue."""
    rng = np.random.default_rng(SEED)
    names: dict[str, None] = {}
    while len(names) < _NAMES:
        names["".join(rng.choice(_SYLLABLES.split(), int(rng.integers(2, 5)))).capitalize()] = None
    return list(names)


def write_growth_catalogue(folder: Path, products: int) -> None:
    """Write the tables of a catalogue of ``products`` products, with an event for each and the demo's searches."""
    rng = np.random.default_rng(SEED + products)
    base, queries, unseen = _demo()
    names = np.array(made_up_names(), object)
    brands = names[: max(50, min(_NAMES, 2 * int(products**0.5)))]
    of_base = base.select("title", "brand", "description", "category", "price").to_dict(as_series=False)
    rests = [title.removeprefix(brand).strip() for title, brand in zip(of_base["title"], of_base["brand"], strict=True)]
    made = np.arange(products) % _BASES
    brand, series = brands[_often(rng, len(brands), products)], names[_often(rng, _NAMES, products)]
    table = pl.DataFrame({"base": made, "brand": pl.Series(brand.tolist()), "series": pl.Series(series.tolist())})
    bases = pl.DataFrame({"base": np.arange(_BASES), "rest": rests}).hstack(base.select("description", "category"))
    folder.mkdir(parents=True, exist_ok=True)
    ids = pl.Series("product_id", [f"P{number:07d}" for number in range(products)])
    table = table.join(bases, on="base", how="left", maintain_order="left")
    table.select(
        ids,
        pl.concat_str("brand", "series", "rest", separator=" ").alias("title"),
        "description",
        "brand",
        "category",
        pl.Series("price", np.array(of_base["price"])[made] * rng.uniform(0.7, 1.4, products), pl.Float32),
        pl.Series("in_stock", rng.random(products) < 0.96),
    ).write_parquet(folder / "products.parquet")
    _events(rng, ids, table["category"]).write_parquet(folder / "events.parquet")
    queries.write_parquet(folder / "queries.parquet")
    (folder.parent / UNSEEN).write_text(json.dumps(unseen) + "\n", encoding="utf-8")


def _often(rng: np.random.Generator, values: int, count: int) -> Array:
    """Positions 0..values-1, the first much more often than the last: int64 [count]."""
    return np.minimum((values * rng.random(count) ** 2).astype(np.int64), values - 1)


def _events(rng: np.random.Generator, ids: pl.Series, category: pl.Series) -> pl.DataFrame:
    """An event for each product: shoppers buy in a few categories each, there some products more often than others."""
    shoppers = max(len(ids) // _SHOPPER_EVENTS, 1)
    order = np.argsort(category.to_numpy(), kind="stable")
    _, starts, sizes = np.unique(category.to_numpy()[order], return_index=True, return_counts=True)
    tastes = rng.integers(0, len(starts), (shoppers, _TASTES))
    who = np.repeat(np.arange(shoppers), _SHOPPER_EVENTS)
    where = tastes[who, rng.integers(0, _TASTES, len(who))]
    what = order[starts[where] + (sizes[where] * rng.random(len(who)) ** 3).astype(np.int64)]
    seconds = rng.integers(0, _DAYS * 86_400, len(who))
    return pl.DataFrame(
        {
            "user_id": pl.Series(who).cast(pl.String),
            "product_id": ids.gather(what),
            "timestamp": pl.Series(seconds * 1_000_000).cast(pl.Duration("us")) + _START,
            "type": pl.Series(np.array(["view", "cart", "purchase"], object)[rng.integers(0, 3, len(who))].tolist()),
        }
    )


class WordEncoder(Encoder):
    """A text's vector is the mean of the vectors of its words, each of which a bi-encoder has encoded.

    Such static vectors are a thousand times faster than the bi-encoder. They lie in its space, so that a query that the
    bi-encoder encodes finds the products that name it. Words beside ``vocabulary`` are left out. ``searches`` were
    encoded as a whole, as a server does.
    """

    precision = "mean of words"

    def __init__(self, vocabulary: Sequence[str], vectors: Array, searches: Sequence[str], of_searches: Array) -> None:
        self._search = dict(zip(searches, of_searches.astype(np.float32), strict=True))
        self._place = {word: place for place, word in enumerate(vocabulary)}
        # The last row is for a text without a known word.
        self._vectors = np.concatenate([vectors, vectors.mean(axis=0, keepdims=True)]).astype(np.float32)

    @classmethod
    def open(cls, path: Path, encoder: BiEncoder) -> "WordEncoder":
        """Read the vectors of ``path``; if there are none, encode the words and searches of all catalogues."""
        if not path.exists():
            base, queries, _ = _demo()
            searches = queries["query"].to_list()
            texts = [*made_up_names(), *base["title"], *base["description"], *base["category"], *searches]
            vocabulary = sorted({word for text in texts for word in words(text)})
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(
                path,
                vocabulary=np.array(vocabulary),
                vectors=_encoded(encoder, vocabulary, "document"),
                searches=np.array(searches),
                of_searches=_encoded(encoder, searches, "query"),
            )
        read = np.load(path)
        return cls(read["vocabulary"].tolist(), read["vectors"], read["searches"].tolist(), read["of_searches"])

    @property
    def dimension(self) -> int:
        """D of the vectors."""
        return int(self._vectors.shape[1])

    def encode(self, texts: Sequence[str], kind: Literal["query", "document"]) -> Array:
        """Vectors of ``texts``, float32 [n, D] of unit length."""
        unknown = len(self._place)
        lists = [[self._place[word] for word in words(text) if word in self._place] or [unknown] for text in texts]
        starts = np.cumsum([0, *map(len, lists)])[:-1]
        sums = np.add.reduceat(self._vectors[np.concatenate(lists).astype(np.int64)], starts)
        vectors = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
        if kind == "query":
            for line, text in enumerate(texts):
                vectors[line] = self._search.get(text, vectors[line])
        return vectors


def _encoded(encoder: BiEncoder, texts: Sequence[str], kind: Literal["query", "document"]) -> Array:
    parts = [encoder.encode(texts[at : at + _AT_ONCE], kind) for at in range(0, len(texts), _AT_ONCE)]
    return np.concatenate(parts).astype(np.float16)


def _demo() -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """The demo's products, its search log, and searches that are not in it."""
    (base, _, queries, _), _ = make_demo(SEED, _BASES, 100, _SEARCHES, 1)
    (_, _, other, _), _ = make_demo(SEED + 1, _BASES, 100, _SEARCHES // 4, 1)
    return base, queries, other.filter(~pl.col("query").is_in(queries["query"]))["query"].to_list()
