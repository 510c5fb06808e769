"""A shop whose truth is known: how likely each shopper buys each product if it is looked at, and what pages showed.

A shopper buys in a few categories. A page shows 4 placements of 6 products, in the order of a score that knows the
shopper's taste and each product's appeal with an error. Its `push` moves products up or down for all shoppers, whatever
their appeal, as margins, campaigns and old bestsellers do. A product is bought with its chance times the attention that
its place gets. Besides, shoppers find products by themselves, in proportion to their chance.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from endcap_server.exposures.record import SECRET_FILE, ShopperKeys
from endcap_server.exposures.segments import schema
from pyarrow import parquet
from tiny_store import write_tiny_keywords, write_tiny_products

PRODUCTS, CATEGORIES, SHOPPERS, DAYS = 480, 12, 500, 64
PLACEMENTS, RANKS = 4, 6
PAGE = PLACEMENTS * RANKS
ATTENTION = np.outer(1 / np.arange(1, PLACEMENTS + 1), 1 / np.arange(1, RANKS + 1) ** 0.5).ravel()
_START = datetime(2026, 1, 5, tzinfo=UTC)
_SECRET = b"of the simulation"
_BASE, _VISITS, _LIKED, _OTHER = 0.08, 0.4, 2, 0.05
_ERROR = 0.7
_FOUND_ALONE = 0.6


@dataclass(frozen=True)
class SimulatedPages:
    """What shoppers do.

    Attributes:
        push: spread of what moves products whatever their appeal, on the logarithm of the score.
        alone: share of the purchases, about, that shoppers find without a page.
    """

    push: float
    alone: float

    def write(self, build: Path, seed: int) -> tuple[pl.DataFrame, np.ndarray]:
        """Write the store of a build and its exposures.

        Returns:
            The events, and the chance float64 [SHOPPERS, PRODUCTS] that a shopper buys a product that is looked at.
        """
        rng = np.random.default_rng(seed)
        category = rng.integers(0, CATEGORIES, PRODUCTS)
        centres = rng.standard_normal((CATEGORIES, 16))
        vectors = centres[category] + 0.5 * rng.standard_normal((PRODUCTS, 16))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        names = [f"c{each}" for each in range(CATEGORIES)]
        price = rng.uniform(1, 90, PRODUCTS)
        write_tiny_products(build, vectors, category=category, categories=names, price=price)
        write_tiny_keywords(build, ["k"], vectors[:1])
        liked = np.argsort(rng.random((SHOPPERS, CATEGORIES)), axis=1)[:, :_LIKED]
        taste = np.full((SHOPPERS, CATEGORIES), _OTHER)
        np.put_along_axis(taste, liked, 1.0, 1)
        chance = np.minimum(_BASE * rng.gamma(1, 1, PRODUCTS) * taste[:, category], 0.9)
        pushed = rng.normal(0, self.push, PRODUCTS)
        events, pages = self._days(rng, chance, pushed)
        (build / "exposures").mkdir()
        (build / SECRET_FILE).write_bytes(_SECRET)
        parquet.write_table(pa.Table.from_pylist(pages, schema()), build / "exposures" / "segment.parquet")
        return events, chance

    def _days(
        self, rng: np.random.Generator, chance: np.ndarray, pushed: np.ndarray
    ) -> tuple[pl.DataFrame, list[dict[str, object]]]:
        keys = ShopperKeys(_SECRET)
        events: list[tuple[str, str, datetime, str]] = []
        pages: list[dict[str, object]] = []
        found = chance / chance.sum(axis=1, keepdims=True)
        for day in range(DAYS):
            for shopper in np.flatnonzero(rng.random(SHOPPERS) < _VISITS).tolist():
                user, time = f"u{shopper:03}", _START + timedelta(days=day, seconds=int(rng.integers(0, 80_000)))
                score = np.log(chance[shopper]) + pushed + rng.normal(0, _ERROR, PRODUCTS)
                shown = np.argsort(-score)[:PAGE]
                bought = shown[rng.random(PAGE) < chance[shopper, shown] * ATTENTION * (1 - self.alone)]
                alone = rng.choice(PRODUCTS, rng.poisson(_FOUND_ALONE * self.alone), p=found[shopper])
                for product, after_s in [*((each, 60) for each in bought), *((each, 6000) for each in alone)]:
                    events.append((user, f"p{product}", time + timedelta(seconds=after_s), "purchase"))
                pages.append(
                    {
                        "page_id": str(len(pages)),
                        "ensemble": "storefront",
                        "shopper": keys.hashed(user.encode()),
                        "time": time,
                        "generation": 1,
                        "placements": [
                            {
                                "title": "",
                                "source": "generated",
                                "keywords": [],
                                "products": [f"p{each}" for each in shown[at : at + RANKS]],
                                "scores": np.exp(score[shown[at : at + RANKS]]).tolist(),
                            }
                            for at in range(0, PAGE, RANKS)
                        ],
                    }
                )
        types = {
            "user_id": pl.String,
            "product_id": pl.String,
            "timestamp": pl.Datetime("us", "UTC"),
            "type": pl.String,
        }
        return pl.DataFrame(events, types, orient="row").sort("user_id", "timestamp"), pages


def expected_purchases(chance: np.ndarray, order: np.ndarray) -> float:
    """Purchases of a page that shows the products of ``order`` (int [at least PAGE], best first): the truth."""
    return float((chance[order[:PAGE]] * ATTENTION).sum())
