"""Which products a theme is about by what they are: of a kind that it names, or of a category of its keywords.

`rerank` takes such candidates for the theme's placement, and in `fusion` they fit it.
"""

from collections.abc import Sequence

import numpy as np

from endcap_server.shop.kinds import Kinds
from endcap_server.shop.store import ItemStore


def of_named_kind(kinds: Kinds, rows: np.ndarray, concepts: Sequence[str]) -> np.ndarray:
    """Which products ``rows`` (int32 [m]) are of a kind that is one of the theme's concepts: bool [m]."""
    named: np.ndarray = np.isin(kinds.of_product[rows], kinds.named(concepts))
    return named


def of_keyword_category(store: ItemStore, rows: np.ndarray, keywords: np.ndarray) -> np.ndarray:
    """Which products ``rows`` (int32 [m]) are of a category that ``keywords`` (int32 [k], -1 padded) are about."""
    categories = store.keyword_category[keywords[keywords >= 0]]
    found: np.ndarray = np.isin(store.category[rows], categories[categories >= 0])
    return found
