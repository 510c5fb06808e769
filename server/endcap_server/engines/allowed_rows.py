"""The rows that a search may find, as each kind of index needs them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import faiss
import numpy as np

from endcap_server.shop.columns import Array

_REMEMBERED = 16
"""Sets of rows; each takes a byte and a bit for each row."""
_untyped: Any = faiss  # its type hints are those of the C++ constructors, not of the Python ones


@dataclass(frozen=True, eq=False)
class AllowedRows:
    """A set of rows.

    Attributes:
        bits: uint8 [ceil(n / 8)], a bit for each row, the lowest first; contiguous.
        rows: n, the number of all rows.
    """

    bits: Array
    rows: int

    @classmethod
    def of(cls, each: Array) -> "AllowedRows":
        """Of bool [n]."""
        return cls(np.packbits(each, bitorder="little"), len(each))

    @cached_property
    def each(self) -> Array:
        """Which rows are allowed: bool [n]."""
        each: Array = np.unpackbits(self.bits, count=self.rows, bitorder="little").view(np.bool_)
        return each

    @cached_property
    def count(self) -> int:
        """Number of allowed rows."""
        return int(np.count_nonzero(self.each))

    @property
    def share(self) -> float:
        """Their share of all rows."""
        return self.count / max(self.rows, 1)

    @cached_property
    def selector(self) -> Any:
        """The same for FAISS."""
        return _untyped.IDSelectorBitmap(self.bits)


class LatestAllowed:
    """Remembers the latest sets of rows: requests repeat them, and what is derived from one grows with the catalogue.

    Args:
        rows: Number of all rows.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._latest: list[AllowedRows] = []

    def of(self, bits: Array | None) -> AllowedRows | None:
        """The set of ``bits`` (uint8 [ceil(n / 8)]), the same object for equal ones; None for None."""
        if bits is None:
            return None
        found = next((each for each in self._latest if np.array_equal(each.bits, bits)), None)
        if found is None:
            # A copy: the request's tensor does not last.
            found = AllowedRows(np.array(bits, np.uint8), self._rows)
        else:
            self._latest.remove(found)
        self._latest = [found, *self._latest[: _REMEMBERED - 1]]
        return found
