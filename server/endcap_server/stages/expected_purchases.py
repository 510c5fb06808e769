"""Expected purchases of a shopper's candidates: they order the candidates, and say which kinds themes are about."""

import numpy as np

from endcap_server.declared.reasons import Cause
from endcap_server.shop.kinds import Kinds
from endcap_server.shop.store import ItemStore
from endcap_server.stages.candidates import Candidates
from endcap_server.stages.classic import usually_shown
from endcap_server.stages.ranking import RANKER, Ranker
from endcap_server.stages.status import StatusPart

_KINDS_OF_A_THEME = 3


class ExpectedPurchases:
    """What the candidates of shoppers are worth; without a ranker nothing is known.

    Args:
        store: The item store.
        ranker: The build's ranker, None if it is not installed.
    """

    def __init__(self, store: ItemStore, ranker: Ranker | None) -> None:
        self._store, self._ranker = store, ranker

    def order(
        self, candidates: Candidates, history: np.ndarray, status: StatusPart
    ) -> tuple[Candidates, np.ndarray | None]:
        """The candidates in the order of what they are worth, the most valuable first, and their worth.

        Args:
            candidates: C candidates.
            history: int32 [H], the shopper's products, oldest first.
            status: Takes what goes wrong; the candidates then keep their order.

        Returns:
            The ordered candidates, and float32 [C]: expected purchases, those new to the shopper weighed by the
            ranker. None without a ranker.
        """
        if self._ranker is None or not self._ranker.available or not len(candidates.rows):
            return candidates, None
        try:
            worth = self._ranker.score(self._store, history, candidates.rows)
        except Exception as error:  # a page in another order is better than none
            status.fall_back(f"ranker: {type(error).__name__}: {error}", Cause.FAILED, RANKER, whole=False)
            return candidates, None
        new = ~np.isin(candidates.rows, history)
        worth = np.where(new, worth * self._ranker.new_factor, worth).astype(np.float32)
        order = np.argsort(-worth, kind="stable")
        return candidates.taken(order), worth[order]


def likely_kinds(
    kinds: Kinds, candidates: Candidates, worth: np.ndarray, history: np.ndarray, products: int
) -> tuple[list[str], list[str]]:
    """Order kinds by what their products are worth beside those that classic placements show.

    A placement has room for a few products of each of its kinds, so no more than these count.

    Args:
        kinds: Kinds of the store's products.
        candidates: C candidates, the most valuable first.
        worth: float [C], their expected purchases.
        history: int32 [H], the shopper's products.
        products: Products of a placement.

    Returns:
        Names of the kinds that the shopper has bought, and of those that are new, the most valuable first.
    """
    kind = kinds.of_product[candidates.rows]
    shown = usually_shown(candidates.rows, candidates.sources, worth, history, products)
    best: dict[int, list[float]] = {}
    for place in np.flatnonzero(~shown & (kind >= 0)).tolist():
        of_kind = best.setdefault(int(kind[place]), [])
        if len(of_kind) < max(1, products // _KINDS_OF_A_THEME):
            of_kind.append(float(worth[place]))
    ordered = sorted(best, key=lambda each: (-sum(best[each]), kinds.names[each]))
    bought = set(kinds.of_product[history].tolist())
    return (
        [kinds.names[each] for each in ordered if each in bought],
        [kinds.names[each] for each in ordered if each not in bought],
    )
