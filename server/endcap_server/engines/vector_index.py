"""A FAISS index with filtered searches."""

import math
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from endcap_server.engines.allowed_rows import AllowedRows
from endcap_server.engines.encoder_runtime import EngineLoadError
from endcap_server.engines.kernel_index import KernelIndex
from endcap_server.shop.columns import Array

_EXACT_ROWS = 50_000
_EXACT_SHARE = 0.1
"""Up to this many allowed rows, or this share of all, an exact search is as fast as one of some lists."""
_GPU_ROWS = 2048
"""Most rows that FAISS returns for a search on a GPU."""
_untyped: Any = faiss  # its type hints are those of the C++ constructors, not of the Python ones


class VectorIndex:
    """Rows of the largest inner products.

    Args:
        index: What a build wrote: flat or lists (IVF).
        on_gpu: The same rows on a GPU, for searches there by FAISS.
        kernels: The same rows on a GPU, for searches there by endcap's own kernel.
    """

    def __init__(
        self, index: faiss.Index, on_gpu: faiss.Index | None = None, kernels: KernelIndex | None = None
    ) -> None:
        self._index, self._on_gpu, self._kernels = index, on_gpu, kernels

    @classmethod
    def read(cls, path: Path) -> "VectorIndex":
        """Read an index file.

        Raises:
            EngineLoadError: there is no such file, or FAISS cannot read it.
        """
        if not path.exists():
            raise EngineLoadError(f"{path}: expected an index, found none; run endcap build index")
        try:
            return cls(faiss.read_index(str(path)))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise EngineLoadError(f"{path}: expected a FAISS index, got {reason}; run endcap build index") from error

    @property
    def index(self) -> faiss.Index:
        """The index in main memory."""
        return self._index

    @property
    def dimension(self) -> int:
        """D of the vectors."""
        return int(self._index.d)

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._index.ntotal)

    def search(self, vectors: Array, k: int, allowed: AllowedRows | None = None) -> tuple[Array, Array]:
        """The nearest rows: int32 [T, k], nearest first, -1 padded; and their similarity, float32 [T, k], NaN padded.

        Every search finds ``k`` rows if so many are allowed.

        Args:
            vectors: float32 [T, D], contiguous.
            k: rows to find.
            allowed: the rows that may be found; None: every row.
        """
        if self._kernels is not None:
            similarity, rows = self._kernels.search(vectors, k, None if allowed is None else allowed.bits)
        elif allowed is None:
            similarity, rows = (self._on_gpu or self._index).search(vectors, k)
        else:
            similarity, rows = self._search_allowed(vectors, k, allowed)
        return rows.astype(np.int32), np.where(rows < 0, np.float32(np.nan), similarity).astype(np.float32)

    def _search_allowed(self, vectors: Array, k: int, allowed: AllowedRows) -> tuple[Array, Array]:
        if self._on_gpu is not None:
            similarity, rows = self._search_gpu(self._on_gpu, vectors, k, allowed)
        elif allowed.count <= _EXACT_ROWS or allowed.share <= _EXACT_SHARE:
            return self._exact(vectors, k, allowed)
        else:
            similarity, rows = self._index.search(vectors, k, params=self._parameters(allowed))
        # A search of some lists can end before enough rows are found.
        short = np.flatnonzero((rows >= 0).sum(axis=1) < min(k, allowed.count))
        if len(short):
            similarity[short], rows[short] = self._exact(np.ascontiguousarray(vectors[short]), k, allowed)
        return similarity, rows

    def _parameters(self, allowed: AllowedRows) -> Any:
        """Search parameters, so that as many allowed rows are visited as without a filter."""
        index = self._index
        if isinstance(index, faiss.IndexIVF):
            lists = min(index.nlist, math.ceil(index.nprobe / allowed.share))
            return _untyped.SearchParametersIVF(sel=allowed.selector, nprobe=lists)
        return _untyped.SearchParameters(sel=allowed.selector)

    def _exact(self, vectors: Array, k: int, allowed: AllowedRows) -> tuple[Array, Array]:
        """Compare every allowed row."""
        index = self._index
        if isinstance(index, faiss.IndexIVF):
            parameters = _untyped.SearchParametersIVF(sel=allowed.selector, nprobe=index.nlist)
            return index.search(vectors, k, params=parameters)
        return index.search(vectors, k, params=_untyped.SearchParameters(sel=allowed.selector))

    def _search_gpu(self, on_gpu: faiss.Index, vectors: Array, k: int, allowed: AllowedRows) -> tuple[Array, Array]:
        """FAISS has no filters on a GPU: find more rows there, then drop those that are not allowed."""
        depth = min(_GPU_ROWS, len(self), math.ceil(2 * k / max(allowed.share, 1e-6)))
        similarity, rows = on_gpu.search(vectors, max(depth, k))
        kept = (rows >= 0) & allowed.each[np.maximum(rows, 0)]
        order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
        rows = np.where(np.take_along_axis(kept, order, 1), np.take_along_axis(rows, order, 1), -1)
        return np.take_along_axis(similarity, order, 1), rows
