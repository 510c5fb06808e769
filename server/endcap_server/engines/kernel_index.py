"""Exact search on a GPU with endcap's own Triton kernel, `scan_top_k`; filters there need no search of more rows."""

import faiss
import numpy as np

from endcap_server.engines.encoder_runtime import EngineLoadError
from endcap_server.shop.columns import Array


class KernelIndex:
    """The rows of an index in float16 on the GPU."""

    def __init__(self, index: faiss.Index) -> None:
        """Copy the rows of ``index``, an inner-product index of any kind.

        Without a GPU this is refused, except in tests, where the process interprets kernels on the CPU.

        Raises:
            EngineLoadError: no GPU, a package is missing, or the dimension is not a multiple of 16.
        """
        try:
            import torch
            from endcap_kernels import ItemMatrix
            from endcap_kernels.dispatch import INTERPRETED
        except ImportError as error:
            raise EngineLoadError(
                f"faiss_device kernels: expected the packages torch, triton and endcap_kernels, got {error}; install "
                "endcap[kernels] where the engine runs, or serve with --profile cpu"
            ) from None
        if not torch.cuda.is_available() and not INTERPRETED:
            raise EngineLoadError("faiss_device kernels: expected an NVIDIA GPU, found none; serve with --profile cpu")
        if index.d % 16:
            raise EngineLoadError(
                f"faiss_device kernels: expected a multiple of 16 dimensions, got {index.d}; set faiss_device gpu"
            )
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        rows = np.asarray(index.reconstruct_n(0, index.ntotal), np.float16).reshape(index.ntotal, index.d)
        self._from_numpy = torch.from_numpy
        self._matrix = ItemMatrix(torch.from_numpy(rows).to(self._device))

    def search(self, vectors: Array, k: int, allowed: Array | None) -> tuple[Array, Array]:
        """Similarity, float32 [T, k], NaN padded; and rows, int64 [T, k], -1 padded. Arguments as of `VectorIndex`."""
        bits = None if allowed is None else self._from_numpy(np.array(allowed)).to(self._device)
        found = self._matrix.search(self._from_numpy(np.array(vectors, np.float32)).to(self._device), k, bits)
        return found.score.cpu().numpy(), found.row.cpu().numpy()
