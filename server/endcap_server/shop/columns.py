"""Memory-mapped columns of texts and of integer lists: what the item store is made of.

Every column is a few plain ``.npy`` files. Both environments (NumPy 1.26 and 2) can read them, the operating system
shares their pages between all stage processes, and opening one takes no time, whatever its size.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from endcap_server.shop.array_files import (
    AT_ONCE,
    Array,
    ArrayWriter,
    StoreError,
    create_array,
    in_parts,
    load_array,
    save_array,
)

__all__ = [
    "Array",
    "EncodedTexts",
    "Ragged",
    "StoreError",
    "StringColumn",
    "create_array",
    "find_encoded",
    "load_array",
    "save_array",
]


def _hash_texts(encoded: Iterable[bytes], count: int) -> Array:
    digests = (hashlib.blake2b(text, digest_size=8).digest() for text in encoded)
    return np.frombuffer(b"".join(digests), dtype="<u8", count=count).astype(np.uint64)


@dataclass(frozen=True)
class StringColumn:
    """A column of texts with a search by value.

    Files: ``NAME.bytes`` uint8 [total], ``NAME.offsets`` int64 [n + 1] and, for ``find``, ``NAME.hashes`` uint64 [n] in
    ascending order with ``NAME.order`` int64 [n], the row of each hash.
    """

    PARTS = (".bytes", ".offsets", ".hashes", ".order")

    blob: Array
    offsets: Array
    hashes: Array
    order: Array

    @classmethod
    def open(cls, folder: Path, name: str) -> "StringColumn":
        """Map the column ``name`` of ``folder``."""
        column = cls(
            blob=load_array(folder, f"{name}.bytes", np.uint8),
            offsets=load_array(folder, f"{name}.offsets", np.int64),
            hashes=load_array(folder, f"{name}.hashes", np.uint64),
            order=load_array(folder, f"{name}.order", np.int64),
        )
        if len(column.offsets) != len(column.hashes) + 1 or int(column.offsets[-1]) != len(column.blob):
            raise StoreError(f"{folder}/{name}.*: the files of this column do not fit each other; build it again")
        return column

    @staticmethod
    def write(folder: Path, name: str, texts: Iterable[str]) -> None:
        """Write the files of a column of ``texts``, which are read once and not held."""
        lengths, hashed = [np.zeros(1, np.int64)], [np.zeros(0, np.uint64)]
        with ArrayWriter(folder, f"{name}.bytes", np.uint8) as blob:
            for part in in_parts(texts):
                encoded = EncodedTexts.of(part)
                blob.append(encoded.blob)
                lengths.append(encoded.lengths)
                hashed.append(encoded.hashes)
        hashes = np.concatenate(hashed)
        order = np.argsort(hashes, kind="stable")
        save_array(folder, f"{name}.offsets", np.cumsum(np.concatenate(lengths)), np.int64)
        save_array(folder, f"{name}.hashes", hashes[order], np.uint64)
        save_array(folder, f"{name}.order", order, np.int64)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> str:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of a column of {len(self)}")
        return self._bytes(row % len(self)).decode()

    def __iter__(self) -> Iterator[str]:
        return (self._bytes(row).decode() for row in range(len(self)))

    def take(self, rows: Iterable[int] | Array) -> list[str]:
        """Return the texts of ``rows`` (int [k], each 0..n-1)."""
        return [self[int(row)] for row in rows]

    def find(self, texts: Sequence[str]) -> Array:
        """Return the row of each text, -1 if unknown: int64 [len(texts)]. Of equal texts the first row counts."""
        encoded = [text.encode() for text in texts]
        hashes = _hash_texts(encoded, len(encoded))
        rows = np.full(len(encoded), -1, np.int64)
        for position, start in enumerate(np.searchsorted(self.hashes, hashes)):
            # More than one round only if two texts share a 64-bit hash.
            for slot in range(int(start), len(self.hashes)):
                if self.hashes[slot] != hashes[position]:
                    break
                if self._bytes(int(self.order[slot])) == encoded[position]:
                    rows[position] = self.order[slot]
                    break
        return rows

    def _bytes(self, row: int) -> bytes:
        return self.blob[self.offsets[row] : self.offsets[row + 1]].tobytes()


@dataclass(frozen=True)
class Ragged:
    """A column of integer lists of different lengths.

    Files: ``NAME.values`` int32 [total], ``NAME.offsets`` int64 [n + 1].
    """

    PARTS = (".values", ".offsets")

    values: Array
    offsets: Array

    @classmethod
    def open(cls, folder: Path, name: str) -> "Ragged":
        """Map the column ``name`` of ``folder``."""
        column = cls(load_array(folder, f"{name}.values", np.int32), load_array(folder, f"{name}.offsets", np.int64))
        if int(column.offsets[-1]) != len(column.values):
            raise StoreError(f"{folder}/{name}.*: the files of this column do not fit each other; build it again")
        return column

    @classmethod
    def of(cls, lists: Sequence[Sequence[int] | Array]) -> "Ragged":
        """Make a column in memory from ``lists``."""
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(items) for items in lists], out=offsets[1:])
        arrays = [np.asarray(items, np.int32) for items in lists]
        return cls(np.concatenate(arrays) if arrays else np.zeros(0, np.int32), offsets)

    @classmethod
    def joined(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """One column of the lists of all ``parts``."""
        lengths = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.offsets) for part in parts)])
        values = [part.values for part in parts] or [np.zeros(0, np.int32)]
        return cls(np.concatenate(values), np.cumsum(lengths))

    @staticmethod
    def write(folder: Path, name: str, column: "Ragged | Iterable[Ragged]") -> None:
        """Write the files of a column, or of one that comes in parts, which are read once and not held."""
        lengths = [np.zeros(1, np.int64)]
        with ArrayWriter(folder, f"{name}.values", np.int32) as values:
            for part in [column] if isinstance(column, Ragged) else column:
                values.append(part.values)
                lengths.append(np.diff(part.offsets))
        save_array(folder, f"{name}.offsets", np.cumsum(np.concatenate(lengths)), np.int64)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> Array:
        """Return list ``index`` as a read-only view: int32 [length]."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def lengths(self, rows: Array) -> Array:
        """Return the length of each list of ``rows``: int64, shape of ``rows``."""
        return self.offsets[rows + 1] - self.offsets[rows]


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """Texts as arrays, which many look-ups at once take: ``blob`` uint8 [total], ``lengths`` int64 [k], ``hashes``.

    The hashes are uint64 [k], as those of :class:`StringColumn`.
    """

    blob: Array
    lengths: Array
    hashes: Array

    @classmethod
    def of(cls, texts: Iterable[str]) -> "EncodedTexts":
        """Encode ``texts``."""
        encoded = [text.encode() for text in texts]
        lengths = np.array([len(text) for text in encoded], np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), lengths, _hash_texts(encoded, len(encoded)))

    def __len__(self) -> int:
        return len(self.lengths)

    def texts(self) -> list[str]:
        """The texts."""
        data, ends = self.blob.tobytes(), np.cumsum(self.lengths).tolist()
        return [data[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]

    def part(self, start: int, end: int) -> "EncodedTexts":
        """The texts from ``start`` to before ``end``."""
        before = int(self.lengths[:start].sum())
        lengths = self.lengths[start:end]
        return EncodedTexts(self.blob[before : before + int(lengths.sum())], lengths, self.hashes[start:end])


def find_encoded(column: StringColumn, wanted: EncodedTexts) -> Array:
    """The row of each text, -1 if unknown: int64 [k]; as :meth:`StringColumn.find`, and much faster for many texts."""
    parts = [wanted.part(start, start + AT_ONCE) for start in range(0, len(wanted), AT_ONCE)]
    return np.concatenate([np.empty(0, np.int64), *(_find_part(column, part) for part in parts)])


def _find_part(column: StringColumn, wanted: EncodedTexts) -> Array:
    if not len(column):
        return np.full(len(wanted), -1, np.int64)
    slot = np.minimum(np.searchsorted(column.hashes, wanted.hashes), len(column) - 1)
    rows = column.order[slot]
    maybe = np.flatnonzero(column.hashes[slot] == wanted.hashes)
    same = column.offsets[rows[maybe] + 1] - column.offsets[rows[maybe]] == wanted.lengths[maybe]
    places = maybe[same]
    lengths = wanted.lengths[places]
    owner = np.repeat(np.arange(len(places)), lengths)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    starts = np.cumsum(wanted.lengths) - wanted.lengths
    here = wanted.blob[np.repeat(starts[places], lengths) + within]
    there = column.blob[np.repeat(column.offsets[rows[places]], lengths) + within]
    equal = np.bincount(owner[here != there], minlength=len(places)) == 0
    found = np.full(len(wanted), -1, np.int64)
    found[places[equal]] = rows[places[equal]]
    # Two texts with the same hash.
    for place in np.setdiff1d(maybe, places[equal]).tolist():
        found[place] = column.find(wanted.part(place, place + 1).texts())[0]
    return found
