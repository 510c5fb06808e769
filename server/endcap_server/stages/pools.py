"""The products of a page with their signals: every product once, however many placements it is a candidate of."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from endcap_server.declared.reasons import Cause
from endcap_server.shop.store import ItemStore
from endcap_server.stages import first_cut
from endcap_server.stages.allowed import Allowed
from endcap_server.stages.page import BLENDED, SIGNALS, Pool, blend
from endcap_server.stages.ranking import RANKER, Ranker
from endcap_server.stages.status import StatusPart


@dataclass(frozen=True)
class FreshShare:
    """Of a page of ``products`` the share ``least``, 0..1, is to be new to the shopper."""

    products: int
    least: float

    def factor(self, probability: np.ndarray, new: np.ndarray, factor: float) -> float:
        """What new products weigh against repeats so that the most valuable ones have that share.

        Args:
            probability: float [n] > 0, of all products that the page may show.
            new: bool [n], whether each is new to the shopper.
            factor: What they weigh at least.

        Returns:
            ``factor``, or as much more as it takes. Where there are too few of either kind, all of it is shown anyway.
        """
        wanted = int(np.ceil(self.least * self.products))
        fresh, repeats = np.sort(probability[new])[::-1], np.sort(probability[~new])[::-1]
        place = self.products - wanted
        if not wanted or len(fresh) < wanted or len(repeats) <= place:
            return factor
        # The last new product that is wanted has to be worth as much as the first repeat that is not.
        return max(factor, float(repeats[place] / max(fresh[wanted - 1], np.finfo(np.float32).tiny)))


@dataclass(frozen=True)
class Products:
    """Distinct products of a page and what does not depend on a placement.

    Attributes:
        rows: int32 [n], ascending.
        likely: float32 [n], the ranker's signal 0..1 for what a product is worth to the shopper; NaN without a model.
        value: float32 [n], expected purchases, those new to the shopper weighed by the ranker; NaN without a model.
        popularity: float32 [n], 0..1.
        factors: float32 [n], of boost and bury.
        shown: bool [n], may be shown and is not pinned.
        vectors: float32 [n, D], unit length.
        brand: int32 [n], -1 none.
    """

    rows: np.ndarray
    likely: np.ndarray
    value: np.ndarray
    popularity: np.ndarray
    factors: np.ndarray
    shown: np.ndarray
    vectors: np.ndarray
    brand: np.ndarray

    @classmethod
    def of(
        cls,
        rows: np.ndarray,
        store: ItemStore,
        ranker: Ranker | None,
        history: np.ndarray,
        fresh: FreshShare,
        allowed: Allowed,
        pinned: np.ndarray,
        status: StatusPart,
    ) -> "Products":
        """Look up and rank the distinct products among ``rows`` (int32 [any]); a ranker that fails is left out."""
        unique = np.unique(rows).astype(np.int32)
        shown = allowed.which(unique) & ~np.isin(unique, pinned)
        likely, value = _ranked(unique, store, ranker, history, fresh, shown, status)
        return cls(
            rows=unique,
            likely=likely,
            value=value,
            popularity=store.popularity[unique].astype(np.float32),
            factors=allowed.factors(unique),
            shown=shown,
            vectors=store.vectors[unique].astype(np.float32),
            brand=store.brand[unique],
        )

    @property
    def ranked(self) -> bool:
        """Whether there are expected purchases."""
        return bool(len(self.value)) and not bool(np.isnan(self.value).any())

    def members(self, rows: np.ndarray) -> np.ndarray:
        """Positions of ``rows``, all of which are among the products: int64, shape of ``rows``."""
        return np.searchsorted(self.rows, rows)

    def pool(
        self,
        members: np.ndarray,
        measured: Mapping[str, np.ndarray],
        weights: np.ndarray,
        pinned: float | np.ndarray = 0.0,
        belongs: np.ndarray | None = None,
        unread: np.ndarray | None = None,
    ) -> Pool:
        """A placement of the products at ``members``, all taken to fit.

        Args:
            members: int64 [m], positions.
            measured: Signal -> float32 [m] of this placement; signals that are absent are unknown.
            weights: float [BLENDED], of the signals in the score.
            pinned: Whether a rule put them there, 1 or 0; float32 [m] or one for all.
            belongs: bool [m], those that belong there by what they are. How well they fit does not order them: in the
                score, each has the best fit of all.
            unread: Weights float [BLENDED] for the order of products that the cross-encoder did not read, below all
                that it read; None: they are blended like the others.
        """
        columns = {
            **dict.fromkeys(("margin", "relevance", "similarity", "lexical", "retrieval"), np.nan),
            **measured,
            "ranker": self.likely[members],
            "popularity": self.popularity[members],
            "rule": self.factors[members],
            "diversity": 0.0,
            "pinned": pinned,
        }
        signals = np.empty((len(members), len(SIGNALS)), np.float32)
        for column, name in enumerate(SIGNALS):
            signals[:, column] = columns[name]
        signals[:, :BLENDED] = np.clip(signals[:, :BLENDED], 0.0, 1.0)
        score = blend(signals if belongs is None else _as_the_best(signals, belongs), weights)
        if unread is not None:
            score = first_cut.below(score, signals, unread)
        return Pool(
            self.rows[members],
            signals,
            score * self.factors[members],
            np.ones(len(members), bool),
            self.vectors[members],
            self.brand[members],
        )


def _as_the_best(signals: np.ndarray, belongs: np.ndarray) -> np.ndarray:
    """The signals with the best fit of all for the products that belong to the theme: float32 [m, k]."""
    level = signals.copy()
    for name in ("margin", "relevance", "similarity"):
        column = SIGNALS.index(name)
        if not np.isnan(signals[:, column]).all():
            level[belongs, column] = np.nanmax(signals[:, column])
    return level


def _ranked(
    rows: np.ndarray,
    store: ItemStore,
    ranker: Ranker | None,
    history: np.ndarray,
    fresh: FreshShare,
    shown: np.ndarray,
    status: StatusPart,
) -> tuple[np.ndarray, np.ndarray]:
    """The columns `likely` and `value` of :class:`Products`."""
    unknown = np.full(len(rows), np.nan, np.float32)
    if ranker is None or not len(rows):
        return unknown, unknown
    try:
        probability, new = ranker.score(store, history, rows), ~np.isin(rows, history)
        factor = fresh.factor(probability[shown], new[shown], ranker.new_factor)
        value = probability * np.where(new, factor, 1.0).astype(np.float32)
        return ranker.signal(value), value
    except Exception as error:  # one signal of six: a page without it is better than none
        status.fall_back(f"ranker: {type(error).__name__}: {error}", Cause.FAILED, RANKER, whole=False)
        return unknown, unknown
