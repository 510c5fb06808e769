"""Generates the demo shop: a realistic catalogue, with shoppers whose tastes and seasons can be learned."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from endcap_builders.catalogue.demo_shop.products import DemoProducts, make_products
from endcap_builders.catalogue.demo_shop.searches import Grader, Intent, make_judgements, make_searches
from endcap_builders.catalogue.demo_shop.shoppers import EVENT_NAMES, Shoppers, make_events, make_shoppers
from endcap_builders.catalogue.demo_shop.words import ShopWords, load_words
from endcap_builders.catalogue.schema import Catalogue
from endcap_builders.catalogue.write import write_catalogue


@dataclass(frozen=True)
class DemoTruth:
    """Hidden variables of the generator: tastes, attributes, and the intent of each search."""

    words: ShopWords
    products: DemoProducts
    shoppers: Shoppers
    intents: dict[str, Intent]

    def grades(self, query: str) -> npt.NDArray[np.int64]:
        """Relevance 0..3 of every product, int64 in the order of ``products``, for a query of the search log.

        Raises:
            KeyError: if the query is not in the search log.
        """
        return Grader(self.words, self.products).grades(self.intents[query])


def generate_demo(
    folder: Path, seed: int = 7, products: int = 6000, shoppers: int = 2000, queries: int = 20_000, judged: int = 600
) -> Catalogue:
    """Writes the demo catalogue to ``folder``; equal arguments give equal files.

    Args:
        folder: replaced if it contains a catalogue.
        seed: of everything random.
        products: number of products, with distinct titles.
        shoppers: number of shoppers, with about 35 events each.
        queries: number of searches in the log (the sum of its counts).
        judged: number of searches with graded judgements.

    Raises:
        ValueError: if a number is out of range.
    """
    for name, value in {"shoppers": shoppers, "queries": queries, "judged": judged}.items():
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}; choose a larger number")
    tables, _ = make_demo(seed, products, shoppers, queries, judged)
    return write_catalogue(folder, *tables)


def make_demo(
    seed: int, products: int, shoppers: int, queries: int, judged: int
) -> tuple[tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame], DemoTruth]:
    """The tables of the demo catalogue (products, events, queries, judgements) and the truth behind them."""
    words = load_words()
    # One random stream per part: more shoppers do not change the products.
    streams = np.random.default_rng(seed).spawn(5)
    goods = make_products(words, products, streams[0])
    people = make_shoppers(words, goods, shoppers, streams[1])
    who, what, when, kind = make_events(words, goods, people, streams[2])
    counts, intents = make_searches(words, goods, people, queries, streams[3])
    asked, shown, grade = make_judgements(words, goods, counts, intents, judged, streams[4])

    ids = np.array(goods.ids)
    paths = [words.leaves[words.lines[line].leaf].path for line in goods.line]
    product_table = pl.DataFrame(
        {
            "product_id": goods.ids,
            "title": goods.titles,
            "description": goods.descriptions,
            "brand": [words.brands[brand] for brand in goods.brand],
            "category": paths,
            "price": goods.price,
            "in_stock": goods.in_stock,
        }
    )
    width = len(str(shoppers - 1))
    event_table = pl.DataFrame(
        {
            "user_id": [f"shopper-{number:0{width}d}" for number in who],
            "product_id": ids[what],
            "timestamp": when,
            "type": np.array(EVENT_NAMES)[kind],
        }
    ).with_columns(pl.col("timestamp").dt.replace_time_zone("UTC"))
    query_table = pl.DataFrame({"query": list(counts), "count": list(counts.values())}).sort(
        "count", "query", descending=[True, False]
    )
    judgement_table = pl.DataFrame(
        {"query": asked, "product_id": ids[shown], "relevance": np.array(grade, dtype=np.float32)}
    )
    truth = DemoTruth(words, goods, people, intents)
    return (product_table, event_table, query_table, judgement_table), truth
