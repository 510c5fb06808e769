"""Why a product stands where it does, for a shopper whose purchases are known."""

from collections.abc import Collection, Mapping
from itertools import pairwise
from statistics import median

from endcap_client import Placement, ScoredProduct
from endcap_client.reasons import reasons, sentence

from endcap_studio.differences import shortened
from endcap_studio.shop import Shop

_DUE_FROM = 0.8
"""Share of the usual time between two purchases after which the next one is due."""
_WEEKS_FROM_DAYS = 14
_MONTHS_FROM_DAYS = 70
_SHORT = 42


class Why:
    """Sentences for one page.

    Args:
        shop: The shop.
        history: Rows of the request's history.
        bought: Row -> days on which the shopper bought it; empty for a made-up history.
        today: Day of the last event.
    """

    def __init__(
        self, shop: Shop, history: Collection[int], bought: Mapping[int, tuple[int, ...]] | None = None, today: int = 0
    ) -> None:
        self._shop, self._history, self._bought, self._today = shop, set(history), bought or {}, today

    def __call__(self, placement: Placement, product: ScoredProduct) -> str:
        """A sentence."""
        row = self._shop.row(product.product_id)
        own = self._of_history(row) if row >= 0 else ""
        said = reasons(placement, product)
        if own:
            # What is known of this shopper says more than the source of the placement.
            said = [each for each in said if each not in ("bought before", "goes with what the shopper buys")]
        return sentence([own, *said])

    def _of_history(self, row: int) -> str:
        days = self._bought.get(row, ())
        if days:
            return _bought(days, self._today)
        if row in self._history:
            return "viewed before" if self._bought else "in the history"
        for neighbour in self._shop.behaviour.neighbour[row].tolist():
            if neighbour in self._history:
                return f"goes with {shortened(self._shop.title(neighbour), _SHORT)}"
        return ""


def _bought(days: tuple[int, ...], today: int) -> str:
    if len(days) == 1:
        return f"bought once, {_span(today - days[0])} ago"
    gap = median(later - earlier for earlier, later in pairwise(days))
    due = ", due" if today - days[-1] >= _DUE_FROM * gap else f", last {_span(today - days[-1])} ago"
    return f"bought {len(days)} times, every {_span(round(gap))}{due}"


def _span(days: int) -> str:
    if days >= _MONTHS_FROM_DAYS:
        return f"{round(days / 30.4)} months"
    if days >= _WEEKS_FROM_DAYS:
        return f"{round(days / 7)} weeks"
    return "1 day" if days == 1 else f"{days} days"
