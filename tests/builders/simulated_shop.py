"""A shop whose experiment is known: shoppers with tastes and habits see pages, and one arm's pages sell more.

A page shows 4 placements of 6 products. A shopper puts each product shown into the cart with the probability BASE times
the shopper's appetite, times the attention that its place gets, times 1 + lift in the treatment. Shoppers who come
often buy more of each page: pages are not independent of each other, and a mean over pages has no simple variance.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from endcap_builders.outcomes.shown import Shown
from scipy.special import gamma

START = datetime(2026, 3, 2, tzinfo=UTC)
"""Of the trial; the days before it are those of generation 1 alone."""
DAYS_BEFORE, DAYS = 14, 7
PLACEMENTS, PRODUCTS = 4, 6
CATALOGUE = 600
BASE = 0.01
_FREQUENCY_SHAPE, _APPETITE_SHAPE = 2.0, 0.7
_PAGES_BEFORE, _PAGES = 8.0, 4.0
_FREQUENT_BUY_MORE = 0.5
ATTENTION = np.outer(1 / np.arange(1, PLACEMENTS + 1) ** 0.5, 1 / np.arange(1, PRODUCTS + 1) ** 0.3).ravel()
"""Probability that a place is looked at, by placement and rank, relative to the first."""


@dataclass(frozen=True)
class SimulatedShop:
    """A shop with an experiment of a known effect.

    Attributes:
        shoppers: how many.
        lift: relative change of cart adds by the treatment.
        share: of the shoppers in the treatment.
    """

    shoppers: int = 2000
    lift: float = 0.1
    share: float = 0.5

    @property
    def control_rate(self) -> float:
        """Expected cart adds per page view of the control."""
        # A page is of a shopper with the probability of its frequency: E[f * f ** power] / E[f].
        shape, power = _FREQUENCY_SHAPE, 1 + _FREQUENT_BUY_MORE
        return float(BASE * ATTENTION.sum() * gamma(shape + power) / gamma(shape) / shape**power)

    @property
    def difference(self) -> float:
        """Expected cart adds per page view of the treatment, minus those of the control."""
        return self.lift * self.control_rate

    def run(self, seed: int) -> tuple[Shown, pl.DataFrame]:
        """What was shown, and the events that followed, as `read_shown` and `read_events` return them."""
        rng = np.random.default_rng(seed)
        frequency = rng.gamma(_FREQUENCY_SHAPE, 1 / _FREQUENCY_SHAPE, self.shoppers)
        appetite = rng.gamma(_APPETITE_SHAPE, 1 / _APPETITE_SHAPE, self.shoppers) * frequency**_FREQUENT_BUY_MORE
        treated = rng.random(self.shoppers) < self.share
        counts = [rng.poisson(frequency * each) for each in (_PAGES_BEFORE, _PAGES)]
        shopper = np.concatenate([np.repeat(np.arange(self.shoppers), each) for each in counts])
        in_trial = np.arange(len(shopper)) >= counts[0].sum()
        second = np.where(
            in_trial,
            rng.integers(0, DAYS * 86400, len(shopper)),
            rng.integers(-DAYS_BEFORE * 86400, 0, len(shopper)),
        )
        effect = np.where(in_trial & treated[shopper], 1 + self.lift, 1.0)
        first = rng.integers(0, CATALOGUE, len(shopper))
        chance = BASE * (appetite[shopper] * effect)[:, None] * ATTENTION
        carted = rng.random(chance.shape) < chance
        clicked = carted | (rng.random(chance.shape) < 2 * chance)
        pages = pl.DataFrame(
            {
                "page": np.arange(len(shopper), dtype=np.uint32),
                "shopper": _names("s", shopper),
                "second": second,
                "generation": np.where(in_trial & treated[shopper], 2, 1),
            }
        ).select(
            "page",
            pl.format("page-{}", "page").alias("page_id"),
            pl.lit("storefront").alias("ensemble"),
            "shopper",
            _time(),
            "generation",
            history=pl.lit(10, pl.Int64),
            unknown_ids=pl.lit(0, pl.Int64),
        )
        page, slot = np.nonzero(clicked)
        product = (first[page] + 7 * slot) % CATALOGUE
        products = pl.DataFrame(
            {
                "page": page.astype(np.uint32),
                "position": (slot // PRODUCTS + 1).astype(np.uint32),
                "rank": (slot % PRODUCTS + 1).astype(np.uint32),
                "product_id": _names("p", product),
            }
        )
        return Shown(pages, _placements(), products, _scores()), self._events(
            rng, shopper[page], second[page], product, carted[page, slot], appetite
        )

    def _events(
        self,
        rng: np.random.Generator,
        shopper: np.ndarray,
        second: np.ndarray,
        product: np.ndarray,
        carted: np.ndarray,
        appetite: np.ndarray,
    ) -> pl.DataFrame:
        """Clicks and cart adds within half an hour of the page, and events of products that no page shows."""
        clicked = second + rng.integers(1, 900, len(second))
        others = rng.poisson(5 * appetite)
        who = np.repeat(np.arange(self.shoppers), others)
        parts = [
            (shopper, product, clicked, "p", "clicks"),
            (shopper[carted], product[carted], (clicked + 900)[carted], "p", "carts"),
            (who, who % 50, rng.integers(-DAYS_BEFORE * 86400, DAYS * 86400, len(who)), "elsewhere", "carts"),
        ]
        frames = [
            pl.DataFrame(
                {
                    "shopper": _names("s", who),
                    "product_id": _names(prefix, what),
                    "second": when,
                    "kind": [kind] * len(who),
                }
            )
            for who, what, when, prefix, kind in parts
        ]
        events = pl.concat(frames).select("shopper", "product_id", pl.lit("").alias("page_id"), _time(), "kind")
        return events.sort("time", maintain_order=True)


def _names(prefix: str, numbers: np.ndarray) -> pl.Series:
    return pl.select(pl.format(prefix + "{}", pl.Series(numbers))).to_series()


def _time() -> pl.Expr:
    return (pl.lit(START) + pl.duration(seconds="second")).cast(pl.Datetime("us", "UTC")).alias("time")


def _placements() -> pl.DataFrame:
    types = {"page": pl.UInt32, "position": pl.UInt32, "source": pl.String, "title": pl.String}
    return pl.DataFrame(schema={**types, "keywords": pl.List(pl.String)})


def _scores() -> pl.DataFrame:
    types = {"day": pl.Date, "generation": pl.Int64, "ensemble": pl.String, "score": pl.Float32, "count": pl.UInt32}
    return pl.DataFrame(schema=types)


WINDOW = timedelta(hours=24)
