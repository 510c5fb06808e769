"""Training examples of the ranker: purchases after a day, given what was known before it.

For each of several cuts in time, the behaviour tables are computed from the events before the cut. The sources find a
shopper's candidates in these tables, as in serving. The purchases in the weeks after the cut are the labels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from endcap_server.shop.store import ItemStore
from endcap_server.stages.ranking_features import FEATURES, FeatureTables
from endcap_server.stages.sources import HISTORY_ITEMS, Profile
from endcap_server.stages.sources.favourites import favourites
from endcap_server.stages.sources.popular import popular
from endcap_server.stages.sources.repeats import repeats
from endcap_server.stages.sources.together import together

from endcap_builders.behaviour.log import Array, EventLog
from endcap_builders.behaviour.tables import BehaviourSettings, behaviour_of

_REPEATS, _TOGETHER, _POPULAR, _FAVOURITES = 200, 150, 100, 150
"""Most candidates of each source; more than in serving, so that the model also sees irrelevant ones."""
_CUT_SHARE, _CUT_ITEMS = 0.1, 6
_LONGEST_DAYS, _PARTS = 28, 8
_WARM_UP = 0.2


@dataclass(frozen=True)
class Cut:
    """A day in the log: events before it are known, purchases in the following ``days`` are predicted."""

    day: int
    days: int


@dataclass(frozen=True)
class Examples:
    """n candidates of g shoppers at a cut, grouped by shopper.

    Attributes:
        features: float32 [n, F].
        bought: bool [n].
        weight: float32 [n], number of candidates that each represents.
        new: bool [n], whether the product is new to the shopper.
        sizes: int64 [g].
        all_bought: int64 [g], distinct products that the shopper bought, also those that are no candidates.
        new_bought: int64 [g], those of them that were new to the shopper.
    """

    features: Array
    bought: Array
    weight: Array
    new: Array
    sizes: Array
    all_bought: Array
    new_bought: Array

    def groups(self, *values: Array) -> Iterator[tuple[Array, ...]]:
        """Split each of ``values`` [n, ...] into groups."""
        ends = np.cumsum(self.sizes)[:-1]
        return zip(*(np.split(each, ends) for each in values), strict=True)

    @classmethod
    def join(cls, parts: Sequence["Examples"]) -> "Examples":
        """Concatenate the examples of at least one cut."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def cuts_of(log: EventLog, most: int) -> list[Cut]:
    """At most ``most`` cuts, the latest first. Its labels are the last days of the log; label periods overlap by half.

    Labels cover 4 weeks, or an eighth of the log if it is shorter than 32 weeks. The first fifth of the log is before
    every cut. A log of less than 8 days has no cuts.
    """
    if not len(log):
        return []
    start, end = int(log.day.min()), int(log.day.max()) + 1
    days = min(_LONGEST_DAYS, (end - start) // _PARTS)
    if not days:
        return []
    first = start + int(np.ceil(_WARM_UP * (end - start)))
    return [Cut(day, days) for day in range(end - days, first - 1, -max(1, days // 2))][:most]


def candidates(tables: FeatureTables, profile: Profile) -> Array:
    """All candidates of a shopper from the sources of behaviour: int64 [c], ascending."""
    sources = tables.sources
    lists = (
        repeats(sources, profile).rows[:_REPEATS],
        together(sources, profile).rows[:_TOGETHER],
        popular(sources, profile, _POPULAR).rows,
        favourites(sources, profile).rows[:_FAVOURITES],
    )
    return np.unique(np.concatenate(lists)).astype(np.int64)


def examples_at(
    log: EventLog,
    cut: Cut,
    store: ItemStore,
    settings: BehaviourSettings,
    *,
    shoppers: int,
    kept: float,
    cut_histories: bool,
    rng: np.random.Generator,
) -> Examples | None:
    """The examples of one cut; None if no shopper has a history before it and a purchase after it.

    Args:
        log: all events.
        cut: the cut.
        store: the build's item store.
        settings: of the step `behaviour`.
        shoppers: most shoppers.
        kept: share of the candidates not bought that are kept, 0 < kept <= 1.
        cut_histories: Whether some shoppers have only their last few items or none, so that the model learns from short
            histories, too.
        rng: chooses shoppers and candidates.
    """
    before, after = log.day < cut.day, (log.day >= cut.day) & (log.day < cut.day + cut.days)
    histories, bought = log.take(before).by_shopper(), log.take(after & log.bought).by_shopper()
    chosen = rng.permutation(sorted(set(histories) & set(bought)))[:shoppers].tolist()
    tables = FeatureTables.of(store, behaviour_of(log.take(before), cut.day, np.asarray(store.category), settings))
    parts = []
    for shopper in chosen:
        history = histories[shopper][-HISTORY_ITEMS:]
        if cut_histories and rng.random() < _CUT_SHARE:
            history = history[len(history) - min(len(history), int(rng.integers(_CUT_ITEMS))) :]
        profile, wanted = Profile.of(history), np.unique(bought[shopper])
        rows = candidates(tables, profile)
        label = np.isin(rows, wanted)
        keep = label | (rng.random(len(rows)) < kept)
        rows, label = rows[keep], label[keep]
        if not len(rows):
            continue
        parts.append(
            Examples(
                features=tables.of_profile(profile, rows),
                bought=label,
                weight=np.where(label, 1, 1 / kept).astype(np.float32),
                new=profile.place(rows) < 0,
                sizes=np.array([len(rows)]),
                all_bought=np.array([len(wanted)]),
                new_bought=np.array([int((profile.place(wanted) < 0).sum())]),
            )
        )
    return Examples.join(parts) if parts else None


def page_shares(examples: Examples, scores: Array, size: int) -> tuple[float, float]:
    """Shares of all purchases and of new ones: means of `shopper_shares`."""
    every, new = shopper_shares(examples, scores, size)
    return float(every.mean()), float(np.nanmean(new)) if (~np.isnan(new)).any() else 0.0


def shopper_shares(examples: Examples, scores: Array, size: int) -> tuple[Array, Array]:
    """Shares of each shopper's purchases among the ``size`` best candidates: float64 [shoppers] each.

    Args:
        examples: with every candidate kept.
        scores: float [n]; equal ones in the candidates' order.
        size: products of a page.

    Returns:
        Shares of all purchases, and of those that were new to the shopper (NaN without any).
    """
    shares: tuple[list[float], list[float]] = ([], [])
    groups = examples.groups(scores, examples.bought, examples.new)
    for (score, bought, new), total, new_total in zip(groups, examples.all_bought, examples.new_bought, strict=True):
        shown = np.argsort(-score, kind="stable")[:size]
        shares[0].append(bought[shown].sum() / total)
        shares[1].append((bought & new)[shown].sum() / new_total if new_total else np.nan)
    return np.array(shares[0]), np.array(shares[1])


def simple_orders(examples: Examples, size: int) -> dict[str, Array]:
    """Baseline orders of the ranker, as scores of the same candidates: float64 [n] each.

    *popular*: most bought first. *own*: most often in the history first, then the latest, then popular ones. *half*:
    the first half of a page as *own*, then popular ones that are new to the shopper.
    """
    column = {name: examples.features[:, FEATURES.index(name)].astype(np.float64) for name in FEATURES}
    popularity = column["bought"]
    # log(1 + count) and log(1 + items since); the recency only decides between equal counts.
    seen = np.nan_to_num(column["seen_count"]) * 100 - np.nan_to_num(column["seen_recency"])
    own = np.where(examples.new, -1e4 + popularity, seen)
    half = np.concatenate(
        [
            np.where(np.argsort(np.argsort(-score, kind="stable")) < size // 2, 1e6, np.where(new, 0.0, -1e6)) + most
            for score, new, most in examples.groups(own, examples.new, popularity)
        ]
    )
    return {"popular": popularity, "own": own, "half": half}
