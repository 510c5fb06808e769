"""Makes pages in the actors of a Ray cluster; the process that asks writes them."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
from endcap_server.prepared.page import PreparedPage

from endcap_builders.prepare.errors import PrepareError
from endcap_builders.prepare.making import Made, MakerOptions, PageMaker
from endcap_builders.prepare.shoppers import Shopper
from endcap_builders.ray_cluster import on_ray

_AT_ONCE = 64
"""Batches that the cluster is given at once; it holds them in memory, and loads the engines once for them."""


class PageActor:
    """Code of a cluster's actor: a batch of a data set whose rows are batches of shoppers, as JSON."""

    def __init__(self, options: MakerOptions) -> None:
        self._options = options
        self._maker: PageMaker | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Make the pages of `shoppers`; `made` has them as JSON, `problem` says why there are none."""
        made, problem = "[]", ""
        try:
            # Not in the constructor: the cluster would start the actor again and again.
            self._maker = self._maker or PageMaker(self._options)
            shoppers = [Shopper(key, tuple(history), tuple(session)) for key, history, session in _read(batch)]
            made = json.dumps([_as_json(each) for each in self._maker.make(shoppers)])
        except PrepareError as error:
            problem = str(error)
        columns = {"made": made, "problem": problem, "number": int(batch["number"][0])}
        return {name: np.array([value], dtype=object) for name, value in columns.items()}


def made_on_ray(
    batches: Iterator[list[Shopper]], options: MakerOptions, address: str
) -> Iterator[tuple[list[Shopper], list[Made]]]:
    """The pages of batches of shoppers, in any order.

    Raises:
        PrepareError: An actor cannot use the build.
        RayError: There is no cluster.
    """
    while several := list(islice(batches, _AT_ONCE)):
        items: list[dict[str, Any]] = [
            {"number": number, "shoppers": json.dumps([list(asdict(each).values()) for each in batch])}
            for number, batch in enumerate(several)
        ]
        for row in on_ray(items, PageActor, (options,), address):
            if row["problem"]:
                raise PrepareError(row["problem"])
            yield several[int(row["number"])], [_of_json(each) for each in json.loads(row["made"])]


def _read(batch: dict[str, np.ndarray]) -> Any:
    return json.loads(str(batch["shoppers"][0]))


def _as_json(made: Made) -> list[Any]:
    return [None if made.page is None else made.page.value().decode(), made.problem, made.unknown]


def _of_json(values: list[Any]) -> Made:
    page, problem, unknown = values
    return Made(None if page is None else PreparedPage.read(page.encode()), problem, unknown)
