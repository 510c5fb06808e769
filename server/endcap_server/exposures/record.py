"""One exposure: what a page or a search has shown to whom."""

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from endcap_server.declared.tensors import compact_json

FOLDER = "exposures"
FOLDER_VARIABLE = "ENDCAP_EXPOSURES_DIR"
SECRET_FILE = "exposures.key"
SECRET_VARIABLE = "ENDCAP_EXPOSURES_SECRET"
_KEY_BYTES = 16


def exposures_folder() -> Path | None:
    """``$ENDCAP_EXPOSURES_DIR``, which `endcap serve` sets; None: nothing is recorded."""
    configured = os.environ.get(FOLDER_VARIABLE)
    return Path(configured) if configured else None


class ShopperKeys:
    """Replaces the keys of shoppers by hashes that only the deployment's secret can make again.

    Args:
        secret: The deployment's; empty: every key becomes "".
    """

    def __init__(self, secret: bytes):
        self._secret = secret

    @classmethod
    def configured(cls) -> "ShopperKeys":
        """With the secret in the file ``$ENDCAP_EXPOSURES_SECRET``, which `endcap serve` sets; without it, none.

        Raises:
            OSError: The file cannot be read.
        """
        file = os.environ.get(SECRET_VARIABLE)
        return cls(Path(file).read_bytes().strip() if file else b"")

    @property
    def identity(self) -> str:
        """What tells this secret from others, without telling it; "" without a secret."""
        return self.hashed(b"\0identity of the secret")

    def hashed(self, shopper: bytes) -> str:
        """HMAC-SHA-256 of a key, its first 16 bytes in hexadecimal digits; "" for an empty key or without a secret."""
        if not shopper or not self._secret:
            return ""
        return hmac.new(self._secret, shopper, hashlib.sha256).digest()[:_KEY_BYTES].hex()


@dataclass(frozen=True)
class Exposure:
    """One page. It refers to what fusion has made anyway; the text is made on the sink's thread.

    Attributes:
        page_id: STATUS.page_id.
        ensemble: storefront or search.
        shopper: Hash of SHOPPER, "" without one.
        time_ns: Nanoseconds since 1970.
        generation: Number of the set of models.
        query: Of a search.
        history: Known products of HISTORY.
        unknown_ids: Product ids that the catalogue does not have.
        placements: STATUS.placements: source of each placement.
        titles: Titles of the placements, at least one per placement.
        keywords: [P, K], "" padded.
        products: [P, N] ids, "" padded.
        score: float32 [P, N].
    """

    page_id: str
    ensemble: str
    shopper: str
    time_ns: int
    generation: int
    query: str
    history: int
    unknown_ids: int
    placements: Sequence[Mapping[str, str]]
    titles: Sequence[str]
    keywords: Sequence[str]
    products: Sequence[str]
    score: np.ndarray

    def line(self, process: str, sequence: int) -> bytes:
        """The exposure as a line of JSON.

        Args:
            process: Name of the process that made the page.
            sequence: Number of the page in that process, from 0: a gap is a page that was not recorded.
        """
        width = max(1, len(self.keywords) // max(1, len(self.score)))
        count = self.score.shape[1]
        placements: list[dict[str, Any]] = []
        for place, source in enumerate(self.placements):
            products = [each for each in self.products[place * count : (place + 1) * count] if each]
            placements.append(
                {
                    "title": self.titles[place],
                    "source": source.get("source", ""),
                    "keywords": [each for each in self.keywords[place * width : (place + 1) * width] if each],
                    "products": products,
                    "scores": [round(float(each), 6) for each in self.score[place, : len(products)]],
                }
            )
        document = {
            "page_id": self.page_id,
            "ensemble": self.ensemble,
            "shopper": self.shopper,
            "time": self.time_ns // 1000,
            "generation": self.generation,
            "query": self.query,
            "history": self.history,
            "unknown_ids": self.unknown_ids,
            "placements": placements,
            "process": process,
            "sequence": sequence,
        }
        return compact_json(document).encode(errors="replace") + b"\n"


Numbered = tuple[int, Exposure]
"""An exposure and its sequence number."""
