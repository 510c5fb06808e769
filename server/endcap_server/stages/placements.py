"""Which placements a page shows: generated and classic ones compete by what they are worth (P2's fusion).

Plain functions over NumPy arrays; ``fusion`` calls them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from endcap_server.stages.page import Pool


@dataclass(frozen=True)
class Offer:
    """A placement that the page may show.

    Attributes:
        pool: Its products.
        value: float32 [m], what showing each is worth: expected purchases, or the score where these are unknown.
        leads: Whether the page must show it, before all that need not be shown.
        classic: Whether it is made of the shopper's candidates, without a theme.
        stands_in: Whether its theme is a category, for one that a language model did not write.
    """

    pool: Pool
    value: np.ndarray
    leads: bool = False
    classic: bool = False
    stands_in: bool = False

    @property
    def generated(self) -> bool:
        """Whether a language model, or the merchandiser's rules, made its theme."""
        return not (self.classic or self.stands_in)


@dataclass(frozen=True)
class Limits:
    """What a choice has to keep.

    Attributes:
        placements: Placements of the page.
        products: Products of a placement.
        least_products: Products that fit, below which a placement is a last resort.
        max_overlap: Share of common products from which two placements are alike.
        max_similarity: Cosine of the mean product vectors from which they are alike.
        order_weight: Share of its value that a generated placement loses with each place that LLM 1 put it later.
        least_generated: Placements that language models make, as long as there are so many.
        most_classic: Placements that they do not make.
    """

    placements: int
    products: int
    least_products: int
    max_overlap: float
    max_similarity: float
    order_weight: float = 0.0
    least_generated: int = 0
    most_classic: int = 0


class PlacementCheck(StrEnum):
    """Why a placement is left out, or shown although it has a fault."""

    EMPTY = "placement_empty"
    UNFIT = "placement_unfit"
    NEAR_DUPLICATE = "placement_near_duplicate"
    KEPT_TO_FILL = "placement_kept_to_fill"


@dataclass
class PlacementChoice:
    """Which offers a page shows, in its order, and why others were left out or shown all the same (reason -> count)."""

    shown: list[int]
    dropped: dict[PlacementCheck, int] = field(default_factory=dict)

    def count(self, reason: PlacementCheck) -> None:
        """Count a placement that was left out or shown in spite of a finding."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


def choose_placements(offers: Sequence[Offer], limits: Limits) -> PlacementChoice:
    """Choose up to ``limits.placements`` offers.

    Offers that lead come first, in their order. The others follow by the value of the products that no chosen placement
    shows already, the most valuable first; those with too few such products follow last. Generated placements that are
    short of products that fit, or that nearly repeat an earlier one by products or by what the products are like, only
    fill what would be a gap.
    """
    choice = PlacementChoice([])
    tops = [_top(offer, limits.products) for offer in offers]
    enough = min(limits.least_products, limits.products)
    good, spare = _screen(offers, tops, enough, limits, choice)
    shown_rows = np.empty(0, np.int32)
    leading = [index for index in good if offers[index].leads][: limits.placements]
    for index in leading:
        choice.shown.append(index)
        shown_rows = np.concatenate([shown_rows, _fresh(offers[index], shown_rows, limits.products)[0]])
    free = [index for index in good if not offers[index].leads]
    while free and len(choice.shown) < limits.placements:
        allowed = _allowed(free, choice.shown, offers, limits)
        if not allowed:
            break
        fresh = {index: _fresh(offers[index], shown_rows, limits.products) for index in allowed}
        full = [index for index in allowed if len(fresh[index][0]) >= enough]
        best = max(
            full or allowed, key=lambda index: fresh[index][1] * (1 - limits.order_weight * _place(offers, index))
        )
        choice.shown.append(best)
        free.remove(best)
        shown_rows = np.concatenate([shown_rows, fresh[best][0]])
    for index in spare[: limits.placements - len(choice.shown)]:
        choice.count(PlacementCheck.KEPT_TO_FILL)
        choice.shown.append(index)
    return choice


def _screen(
    offers: Sequence[Offer], tops: Sequence[np.ndarray], enough: int, limits: Limits, choice: PlacementChoice
) -> tuple[list[int], list[int]]:
    """Offers that may be chosen, and those that only fill gaps, the most valuable first."""
    means = [_mean(offer.pool, top) for offer, top in zip(offers, tops, strict=True)]
    good: list[int] = []
    spare: list[int] = []
    for index, offer in enumerate(offers):
        if not len(offer.pool.rows):
            if not offer.classic:
                choice.count(PlacementCheck.EMPTY)
        elif offer.leads or offer.classic:
            good.append(index)
        elif int(offer.pool.fit.sum()) < enough:
            choice.count(PlacementCheck.UNFIT)
            spare.append(index)
        elif any(_repeats(index, other, offers, tops, means, limits) for other in good if not offers[other].classic):
            choice.count(PlacementCheck.NEAR_DUPLICATE)
            spare.append(index)
        else:
            good.append(index)
    worth = {index: float(offers[index].value[tops[index]].sum()) for index in spare}
    return good, sorted(spare, key=lambda index: -worth[index])


def _allowed(free: Sequence[int], shown: Sequence[int], offers: Sequence[Offer], limits: Limits) -> list[int]:
    """The offers that may come next: enough places are left for generated ones, and classic ones are not too many."""
    left = list(free)
    if sum(offers[index].classic for index in shown) >= limits.most_classic:
        left = [index for index in left if not offers[index].classic]
    generated_left = [index for index in left if offers[index].generated]
    needed = min(limits.least_generated - sum(offers[index].generated for index in shown), len(generated_left))
    return generated_left if limits.placements - len(shown) <= needed else left


def _fresh(offer: Offer, shown: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """The products that the placement would show beside those that are shown already, and what these are worth."""
    usable = np.flatnonzero(offer.pool.fit & ~np.isin(offer.pool.rows, shown))
    best = usable[np.argsort(-offer.pool.score[usable], kind="stable")[:count]]
    return offer.pool.rows[best], float(offer.value[best].sum())


def _place(offers: Sequence[Offer], index: int) -> int:
    """How many placements LLM 1 put before this one; 0 for a classic one."""
    return 0 if offers[index].classic else sum(not offer.classic for offer in offers[:index])


def _top(offer: Offer, count: int) -> np.ndarray:
    """Positions of the best products that fit, or of the best at all where none does."""
    pool = offer.pool
    score = np.where(pool.fit, pool.score, -np.inf) if pool.fit.any() else pool.score
    order = np.argsort(-score, kind="stable")[:count]
    return order[score[order] > -np.inf]


def _mean(pool: Pool, top: np.ndarray) -> np.ndarray:
    mean = pool.vectors[top].sum(axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-6)


def _repeats(
    one: int,
    two: int,
    offers: Sequence[Offer],
    tops: Sequence[np.ndarray],
    means: Sequence[np.ndarray],
    limits: Limits,
) -> bool:
    first, second = offers[one].pool.rows[tops[one]], offers[two].pool.rows[tops[two]]
    shared = len(np.intersect1d(first, second, assume_unique=True)) / max(1, min(len(first), len(second)))
    return shared >= limits.max_overlap or float(means[one] @ means[two]) >= limits.max_similarity
