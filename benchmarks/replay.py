"""Requests to replay: shoppers of the catalogue's events, searches of its search log."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

Kind = Literal["storefront", "search"]
MAX_HISTORY = 200
"""Number of a shopper's newest events in a request, as a ranking service would send."""
_SESSIONS = (0, 0, 1, 2)
"""Possible numbers of searches in a session, equally likely: half of the visits begin without a search."""


class ReplayError(ValueError):
    """The catalogue has nothing to replay; the message names the missing file."""


@dataclass(frozen=True)
class ReplayedRequest:
    """One request to either ensemble; `query` is empty for a storefront."""

    kind: Kind
    history: tuple[str, ...] = ()
    session: tuple[str, ...] = ()
    query: str = ""

    def document(self) -> dict[str, Any]:
        """The request as JSON."""
        return asdict(self)

    @classmethod
    def read(cls, document: dict[str, Any]) -> "ReplayedRequest":
        """The request of :meth:`document`."""
        return cls(document["kind"], tuple(document["history"]), tuple(document["session"]), document["query"])


class Replay:
    """Draws requests from a catalogue; equal seeds give equal requests.

    Each shopper is used once, in random order, so that no page is in a cache. When all shoppers have been used, they
    are used again with new sessions.

    Args:
        catalogue: Folder of a catalogue with events (shoppers) and queries (the search log).
        seed: Seed of all random choices.

    Raises:
        ReplayError: A file is missing, or the catalogue is wrong.
    """

    def __init__(self, catalogue: Path, seed: int):
        import polars
        from endcap_builders.catalogue import CatalogueError, read_catalogue

        try:
            read = read_catalogue(catalogue)
        except CatalogueError as error:
            raise ReplayError(f"{catalogue}: {error}") from error
        if read.events is None or read.queries is None:
            name = "events" if read.events is None else "queries"
            raise ReplayError(
                f"{catalogue}/{name}.parquet: expected shoppers and searches to replay, found no such file; "
                "name a catalogue that has it with --catalogue"
            )
        events = read.events.sort("timestamp", "user_id", maintain_order=True)
        shoppers = events.group_by("user_id", maintain_order=True).agg(polars.col("product_id"))
        log = read.queries.sort("query")
        self.histories: list[tuple[str, ...]] = [tuple(row) for row in shoppers["product_id"].to_list()]
        """All events of each shopper, oldest first."""
        self.activity = np.array([len(row) for row in self.histories], float)
        self.activity /= self.activity.sum()
        place = {shopper: index for index, shopper in enumerate(shoppers["user_id"].to_list())}
        self._visitors = [place[shopper] for shopper in events["user_id"].to_list()]
        self.queries: list[str] = log["query"].to_list()
        self.query_share = log["count"].to_numpy() / log["count"].sum()
        self._generator = np.random.default_rng(seed)
        self._dealt = self._deal()

    def storefronts(self, count: int) -> list[ReplayedRequest]:
        """Pages of distinct shoppers, with their newest events."""
        return [
            ReplayedRequest("storefront", self.histories[shopper][-MAX_HISTORY:], self._session())
            for shopper in islice(self._dealt, count)
        ]

    def visits(self, count: int) -> list[ReplayedRequest]:
        """Pages as in real traffic: one for each event of a section of the log, with the history until then.

        A shopper who views five products in a row causes five pages. Each has one more event in its history; the
        searches of the session are the same.
        """
        start = int(self._generator.integers(0, max(1, len(self._visitors) - count)))
        seen = Counter(self._visitors[:start])
        sessions: dict[int, tuple[str, ...]] = {}
        requests = []
        for shopper in islice(cycle(self._visitors[start : start + count]), count):
            session = sessions.setdefault(shopper, self._session())
            history = self.histories[shopper][: seen[shopper]]
            requests.append(ReplayedRequest("storefront", history[-MAX_HISTORY:], session))
            seen[shopper] += 1
        return requests

    def searches(self, count: int) -> list[ReplayedRequest]:
        """Searches drawn from the log by frequency, each with a random shopper."""
        picked = self._generator.choice(len(self.queries), count, p=self.query_share)
        shoppers = self._generator.choice(len(self.histories), count, p=self.activity)
        return [
            ReplayedRequest("search", self.histories[shopper][-MAX_HISTORY:], query=self.queries[query])
            for query, shopper in zip(picked.tolist(), shoppers.tolist(), strict=True)
        ]

    def traffic(self, count: int, search_share: float) -> list[ReplayedRequest]:
        """Visits in their order, mixed with searches."""
        is_search = self._generator.random(count) < search_share
        searches = iter(self.searches(int(is_search.sum())))
        visits = iter(self.visits(int((~is_search).sum())))
        return [next(searches) if search else next(visits) for search in is_search.tolist()]

    def _session(self) -> tuple[str, ...]:
        length = int(self._generator.choice(_SESSIONS))
        picked = self._generator.choice(len(self.queries), length, p=self.query_share)
        return tuple(self.queries[query] for query in picked.tolist())

    def _deal(self) -> Iterator[int]:
        while True:
            yield from self._generator.permutation(len(self.histories)).tolist()
