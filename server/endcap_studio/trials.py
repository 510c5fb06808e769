"""Trying a change on many shoppers: both pages of each, and what differs."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median

from endcap_client import Page
from endcap_client.errors import EndcapError

from endcap_studio.deployment import Ask
from endcap_studio.differences import Difference, difference
from endcap_studio.errors import StudioError
from endcap_studio.jobs import Job
from endcap_studio.shop import Shop
from endcap_studio.views import Person, View

SAMPLE = 100
"""Shoppers of a trial."""
_MOST_FAILED = 10
_EXAMPLES = 5


@dataclass(frozen=True)
class Trial:
    """What a change does to pages of many shoppers; latencies in ms, shares of the products of a page."""

    asked: int
    failed: int
    changed: int
    new_share: float
    moved_share: float
    titles: float
    before_ms: float
    after_ms: float
    most: tuple[tuple[View, Difference], ...]


def try_on(
    shop: Shop, job: Job, views: list[View], before: Callable[[Ask], Page], after: Callable[[Ask], Page]
) -> Trial:
    """Ask for both pages of every shopper, one after the other, so that other requests are not delayed.

    Raises:
        StudioError: Most pages fail.
        Cancelled: Somebody has cancelled the job.
    """
    found: list[tuple[View, Difference]] = []
    times: tuple[list[float], list[float]] = ([], [])
    failed = 0
    for view in views:
        ask = Person.of(view, shop).ask(view)
        try:
            first, second = before(ask), after(ask)
        except EndcapError as error:
            failed += 1
            if failed == len(views) or failed > _MOST_FAILED > len(found):
                raise StudioError(f"{failed} pages failed: {error}") from None
        else:
            found.append((view, difference(first, second)))
            times[0].append(1000 * first.seconds)
            times[1].append(1000 * second.seconds)
        job.step()
    return Trial(
        len(found),
        failed,
        sum(each.changed for _, each in found),
        fmean(each.new_products / max(1, each.products) for _, each in found),
        fmean(each.moved_products / max(1, each.products) for _, each in found),
        fmean(len(each.new_titles) for _, each in found),
        median(times[0]),
        median(times[1]),
        tuple(sorted(found, key=lambda pair: (-pair[1].new_products, -pair[1].moved_products))[:_EXAMPLES]),
    )


def sample_views(shop: Shop, count: int) -> list[View]:
    """Shoppers of the events; without events, made-up ones who bought what sells."""
    if shop.shoppers is not None:
        return [View(shopper=name) for name in shop.shoppers.sample(count)]
    best = shop.store.popularity.argsort()[::-1][: 3 * count].tolist()
    ids = [shop.store.product_ids[row] for row in best]
    return [View(add=tuple(ids[place :: max(1, len(ids) // 3)][:3])) for place in range(min(count, len(ids)))]
