"""Kinds of products, with names that shoppers use. They describe shoppers, and themes are about them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from endcap_server.shop.columns import Array, StringColumn, load_array
from endcap_server.shop.kind_lists import kind_lists
from endcap_server.shop.prompts import due, favourites, label_name
from endcap_server.shop.store import ItemStore

FOLDER = "topics"
FILES = (
    *(f"{FOLDER}/topics.{part}.npy" for part in ("bytes", "offsets", "hashes", "order")),
    f"{FOLDER}/product_topic.npy",
    f"{FOLDER}/topic_restocked.npy",
    f"{FOLDER}/topic_affinity.npy",
)
"""What the build step `topics` writes for :class:`Kinds`."""


@dataclass(frozen=True)
class Kinds:
    """Names of kinds and the kind of each product.

    Attributes:
        names: Distinct names.
        of_product: int32 [products], position of the kind in ``names``, -1 none.
        restocked: Names of kinds that shoppers buy repeatedly, learned from events; durable goods are not among them.
        affinity: float32 [K, K], how well two of the first K kinds suit one placement.
    """

    names: Sequence[str]
    of_product: Array
    restocked: frozenset[str]
    affinity: Array

    @classmethod
    def open(cls, build: Path, store: ItemStore) -> "Kinds":
        """Read the files of the step `topics`. A product without a topic has its category as kind."""
        topic = np.full(len(store), -1, np.int32)
        names: list[str] = []
        restocked: frozenset[str] = frozenset()
        affinity = np.zeros((0, 0), np.float32)
        if (build / FILES[0]).exists():
            names = list(StringColumn.open(build / FOLDER, "topics"))
            topic = load_array(build / FOLDER, "product_topic", np.int32).copy()
            again = load_array(build / FOLDER, "topic_restocked", np.bool_)
            restocked = frozenset(name for name, is_again in zip(names, again.tolist(), strict=True) if is_again)
            affinity = load_array(build / FOLDER, "topic_affinity", np.float32, ndim=2)
        position = {name: place for place, name in enumerate(names)}
        leaves = [label_name(label) for label in store.category_labels]
        place_of_leaf = np.array(
            [position.setdefault(leaf, len(position)) if leaf else -1 for leaf in leaves], np.int32
        )
        without = (topic < 0) & (store.category >= 0)
        topic[without] = place_of_leaf[store.category[without]]
        return cls(list(position), topic, restocked, affinity)

    def popularity(self, of_product: Array) -> Array:
        """Popularity of each kind, float [kinds] > 0: the sum over its products, given as float [products]."""
        kind = self.of_product >= 0
        total = np.bincount(self.of_product[kind], of_product[kind], minlength=len(self.names))
        return np.maximum(total, np.finfo(np.float32).tiny)

    def named(self, names: Iterable[str]) -> list[int]:
        """Positions of the kinds that are called so."""
        return [self._position[name] for name in names if name in self._position]

    @cached_property
    def _position(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    def lists(self, bought: Sequence[str], new: Sequence[str]) -> list[list[str]]:
        """Names of kinds in lists that suit one placement each, see `kind_lists`.

        Names that are no kinds (keywords, in a catalogue without kinds) follow one by one.
        """
        found = kind_lists(self.named(bought), self.named(new), self.names, self.affinity)
        unknown = [[name] for name in (*bought, *new) if name not in self._position]
        return [*([self.names[kind] for kind in kinds] for kinds in found), *unknown]

    def labels(self, rows: Array) -> list[str]:
        """Name of the kind of each product of ``rows`` (int [H]), "" for none."""
        return [self.names[kind] if kind >= 0 else "" for kind in self.of_product[rows].tolist()]

    def favourites(self, rows: Array, limit: int, half_life: float) -> list[str]:
        """Kinds of a history (rows, oldest first) by recency-weighted count, best first."""
        return favourites(self.labels(rows), limit, half_life)

    def due(self, rows: Array, limit: int) -> list[str]:
        """Restocked kinds of a history (rows, oldest first) that are probably needed again, most bought first."""
        return due(self.labels(rows), self.restocked, limit)
