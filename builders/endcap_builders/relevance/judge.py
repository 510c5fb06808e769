"""The trained teacher with its tokenised products: labels pairs in this or another process."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from endcap_server.shop.store import ItemStore

from endcap_builders.catalogue import read_catalogue
from endcap_builders.relevance.data import pair_encoder_of, store_texts
from endcap_builders.relevance.encode import PairEncoder
from endcap_builders.relevance.pairs import Pairs, make_pairs
from endcap_builders.relevance.teacher import RelevanceTeacher


@dataclass
class Judge:
    """Scores pairs with a teacher; loaded at the first use in each process.

    Attributes:
        teacher: folder of the teacher.
        build: build with the item store of the products.
        catalogue: catalogue with their texts, for a teacher with another vocabulary.
        max_product_tokens: a product is cut here; 0: as the item store has it.
    """

    teacher: Path
    build: Path
    catalogue: Path
    max_product_tokens: int = 0
    _opened: tuple[RelevanceTeacher, PairEncoder] | None = field(default=None, repr=False, compare=False)

    @property
    def model(self) -> str:
        """The build step of the model, for messages."""
        return "teacher"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def open(self) -> tuple[RelevanceTeacher, PairEncoder]:
        """The teacher and its tokenised products."""
        if self._opened is None:
            store = ItemStore.open(self.build, linked=False)
            teacher = RelevanceTeacher.open(self.teacher)
            encoder = pair_encoder_of(
                store, teacher.tokenizer, lambda: store_texts(read_catalogue(self.catalogue), store)
            )
            if self.max_product_tokens:
                encoder = encoder.cut(self.max_product_tokens)
            self._opened = teacher, encoder
        return self._opened

    def judge(self, pairs: Pairs) -> np.ndarray:
        """Expected grade of pairs, float32 [n] in 0..1."""
        teacher, encoder = self.open()
        return teacher.scores(encoder.encode(pairs))

    def scores(self, queries: list[str], products: np.ndarray) -> np.ndarray:
        """Expected grade of each (query, product row), float32 [n] in 0..1."""
        # `make_pairs` changes the order and removes duplicates.
        pairs = make_pairs(queries, products, np.full(len(queries), np.nan))
        place = {key: n for n, key in enumerate(zip(pairs.query.tolist(), pairs.product.tolist(), strict=True))}
        number = {text: n for n, text in enumerate(pairs.queries)}
        keys = zip((number[" ".join(text.split())] for text in queries), products.tolist(), strict=True)
        return self.judge(pairs)[[place[key] for key in keys]]
