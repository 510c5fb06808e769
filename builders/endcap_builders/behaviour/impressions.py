"""Training examples of the ranker from pages that were shown: what shoppers saw and bought, or saw and did not buy.

A product further down was looked at less often. What was bought there weighs as many times more (inverse propensity
weighting: Joachims, Swaminathan and Schnabel 2017, "Unbiased Learning-to-Rank with Biased Feedback"), by the attention
that `outcomes/position_bias.py` estimates from the same pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from endcap_server.shop.store import ItemStore
from endcap_server.stages.ranking_features import FeatureTables
from endcap_server.stages.sources import HISTORY_ITEMS, Profile

from endcap_builders.behaviour.examples import Cut, Examples
from endcap_builders.behaviour.log import GRADES, Array, EventLog
from endcap_builders.behaviour.tables import BehaviourSettings, behaviour_of
from endcap_builders.outcomes.attribution import WINDOW_HOURS, attribute
from endcap_builders.outcomes.events import KINDS, Track, hashed_events, shopper_keys
from endcap_builders.outcomes.position_bias import PositionBias, position_bias
from endcap_builders.outcomes.shown import read_products

_ENSEMBLE = "storefront"
_LEAST_ATTENTION = 0.1
"""Rarely seen places would otherwise get examples of any weight, and estimates of any variance."""


@dataclass(frozen=True)
class Impressions:
    """i products on pages.

    Attributes:
        shopper: int64 [i], numbers of the log's shoppers.
        row: int64 [i], product.
        day: int64 [i], days since 1970.
        bought: bool [i], whether the page led to an event of the log's strongest kind.
        weight: float32 [i], 1 over the attention of the place if bought, else 1.
        bias: attention by place.
        pages: number of pages.
    """

    shopper: Array
    row: Array
    day: Array
    bought: Array
    weight: Array
    bias: PositionBias
    pages: int

    def examples(
        self,
        log: EventLog,
        cut: Cut,
        store: ItemStore,
        settings: BehaviourSettings,
        most: int,
        rng: np.random.Generator,
    ) -> Examples | None:
        """What pages of the days of a cut showed, with features as of its first day; None without any.

        Args:
            log: all events.
            cut: days of pages.
            store: the build's item store.
            settings: of the step `behaviour`.
            most: shoppers.
            rng: chooses them.
        """
        shown = self._of_days(cut)
        before = log.take(log.day < cut.day)
        histories = before.by_shopper()
        chosen = rng.permutation(sorted(set(histories) & set(shown)))[:most].tolist()
        if not chosen:
            return None
        tables = FeatureTables.of(store, behaviour_of(before, cut.day, np.asarray(store.category), settings))
        parts = []
        for shopper in chosen:
            profile = Profile.of(histories[shopper][-HISTORY_ITEMS:])
            rows, bought, weight = shown[shopper]
            parts.append(
                Examples(
                    features=tables.of_profile(profile, rows),
                    bought=bought,
                    weight=weight,
                    new=profile.place(rows) < 0,
                    sizes=np.array([len(rows)]),
                    # Purchases are counted once, by the examples of the log.
                    all_bought=np.array([0]),
                    new_bought=np.array([0]),
                )
            )
        return Examples.join(parts)

    def figures(self, parts: Sequence[Examples]) -> dict[str, Any]:
        """Of the manifest: pages, rows and purchases of the examples, attention by place."""
        return {
            "pages": self.pages,
            "rows": sum(len(part.bought) for part in parts),
            "bought": sum(int(part.bought.sum()) for part in parts),
            "attention": {
                "positions": self.bias.positions.round(3).tolist(),
                "ranks": self.bias.ranks.round(3).tolist(),
            },
        }

    def _of_days(self, cut: Cut) -> dict[int, tuple[Array, Array, Array]]:
        """Rows, bought, weight by shopper; each product once, with its best outcome."""
        inside = (self.day >= cut.day) & (self.day < cut.day + cut.days)
        columns = {"shopper": self.shopper, "row": self.row, "bought": self.bought, "weight": self.weight}
        table = (
            pl.DataFrame({name: each[inside] for name, each in columns.items()})
            .group_by("shopper", "row")
            .agg(pl.col("bought").any(), pl.col("weight").max())
            .sort("shopper", "row")
        )
        if table.is_empty():
            return {}
        shopper, row, bought, weight = (table[name].to_numpy() for name in columns)
        numbers, starts = np.unique(shopper, return_index=True)
        parts = zip(*(np.split(each, starts[1:]) for each in (row, bought, weight)), strict=True)
        return dict(zip(numbers.tolist(), parts, strict=True))


def page_days(cuts: Sequence[Cut]) -> list[Cut]:
    """The days of pages for each cut: up to the next cut, so that features are as recent as the cuts allow.

    Args:
        cuts: The latest first. Its days are those by which models are judged, so the days before it end a day earlier:
            a page may lead to an event of the next day.
    """
    ends = [cuts[0].day + cuts[0].days, cuts[0].day - 1, *(cut.day for cut in cuts[1:])]
    return [Cut(cut.day, end - cut.day) for cut, end in zip(cuts, ends, strict=False)]


def read_impressions(
    folder: Path,
    secret: Path | None,
    events: pl.DataFrame,
    log: EventLog,
    store: ItemStore,
    most_pages: int,
    track: Track,
) -> Impressions:
    """The latest pages that were shown to shoppers of the log, with what came of them.

    Args:
        folder: of exposures.
        secret: the deployment's; None: beside the exposures.
        events: of the catalogue, as the log has them.
        log: all events.
        store: the build's item store.
        most_pages: how many pages at most.
        track: for progress.

    Raises:
        OutcomesError: there is no secret, or no page was shown to these shoppers.
    """
    keys = shopper_keys(folder, secret)
    followed = hashed_events(events, keys, track)
    window = timedelta(hours=WINDOW_HOURS)
    shoppers = pl.DataFrame(
        {"shopper": [keys.hashed(user.encode()) for user in log.users], "number": np.arange(len(log.users))}
    )
    # What pages of the last hours have led to is not yet known.
    wanted = (pl.col("ensemble") == _ENSEMBLE) & (pl.col("time") <= followed["time"][-1] - window)
    pages, products = read_products(folder, wanted, shoppers.select("shopper"), most_pages, track)
    attributed = attribute(pages, products, followed, window)
    strongest = KINDS[max(events["type"].cast(pl.String).unique(), key=GRADES.__getitem__)]
    place = ["page", "position", "rank"]
    outcomes = attributed.group_by(place).agg((pl.col("kind") == strongest).any().alias("bought"))
    ids = products["product_id"].unique()
    known = pl.DataFrame({"product_id": ids, "row": store.product_ids.find(ids.to_list()).astype(np.int64)})
    table = (
        products.join(known.filter(pl.col("row") >= 0), on="product_id")
        .join(pages.select("page", "shopper", day=pl.col("time").dt.epoch("d").cast(pl.Int64)), on="page")
        .join(shoppers, on="shopper")
        .join(outcomes, on=place, how="left")
        .sort(place)
    )
    position, rank = (table[name].to_numpy().astype(np.int64) for name in ("position", "rank"))
    # One product at one score (a factor of 2 wide) appeals alike.
    level = pl.col("score").clip(1e-6).log(2).floor().cast(pl.Int64)
    unit = table.select(pl.struct("row", level).rank("dense")).to_series().to_numpy().astype(np.int64) - 1
    bias = position_bias(unit, position, rank, table["bought"].is_not_null().to_numpy())
    bought = table["bought"].fill_null(False).to_numpy()
    weight = np.where(bought, 1 / np.maximum(bias.attention(position, rank), _LEAST_ATTENTION), 1)
    return Impressions(
        table["number"].to_numpy(),
        table["row"].to_numpy(),
        table["day"].to_numpy(),
        bought,
        weight.astype(np.float32),
        bias,
        pages.height,
    )
