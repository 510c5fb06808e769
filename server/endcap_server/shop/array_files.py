"""Reading and writing of ``.npy`` files: mapped into memory, and written in parts."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Array = np.ndarray[Any, Any]
AT_ONCE = 65_536
"""Rows of one part, where a column is written or looked up in parts."""
_Item = TypeVar("_Item")


class StoreError(ValueError):
    """A store file is missing, damaged or does not fit the others; the message says which and what to do."""


def load_array(folder: Path, name: str, dtype: Any, ndim: int = 1) -> Array:
    """Map ``folder/name.npy`` read-only, checking that it has the expected type and number of dimensions."""
    path = folder / f"{name}.npy"
    try:
        # An empty file cannot be mapped; NumPy can read it.
        array = np.load(path, mmap_mode="r") if path.stat().st_size > 128 else np.load(path)
    except FileNotFoundError:
        raise StoreError(f"{path}: expected a file of the build, found none; build it again (endcap build)") from None
    except (ValueError, OSError, EOFError) as error:
        raise StoreError(f"{path}: expected a NumPy array, got {error}; build it again (endcap build)") from error
    if array.dtype != np.dtype(dtype) or array.ndim != ndim:
        raise StoreError(
            f"{path}: expected {np.dtype(dtype)} with {ndim} dimension(s), got {array.dtype} with {array.ndim}; "
            "build it again (endcap build)"
        )
    # A plain view: indexing np.memmap wraps every scalar and slice in a subclass, which is slow.
    return np.asarray(array)


def save_array(folder: Path, name: str, values: Any, dtype: Any) -> None:
    """Write ``folder/name.npy``."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", np.ascontiguousarray(values, dtype=dtype))


def create_array(folder: Path, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """``folder/name.npy`` of zeros, mapped into memory to be filled in any order; nothing is held beside the file."""
    folder.mkdir(parents=True, exist_ok=True)
    if not np.prod(shape):
        save_array(folder, name, np.zeros(shape, dtype), dtype)
        return np.zeros(shape, dtype)
    return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.dtype(dtype), shape)


class ArrayWriter:
    """Writes ``folder/name.npy``, an array of one dimension, in parts; use it in a ``with`` block."""

    def __init__(self, folder: Path, name: str, dtype: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._dtype, self._count = np.dtype(dtype), 0
        self._file = (folder / f"{name}.npy").open("wb")
        self._write_header()

    def append(self, values: Any) -> None:
        """Add ``values``, an array or a list."""
        part = np.ascontiguousarray(values, self._dtype)
        part.tofile(self._file)
        self._count += len(part)

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(self, *_: object) -> None:
        # NumPy leaves room in the header for any length, so that the header of the whole array fits.
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self._count,)}
        np.lib.format.write_array_header_1_0(self._file, header)


def in_parts(items: Iterable[_Item], size: int = AT_ONCE) -> Iterator[list[_Item]]:
    """``items`` in lists of at most ``size``."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
