"""Runs the cross-encoder's checkpoint on flat tokens with endcap's own Triton kernels (package `endcap_kernels`).

Nothing is padded, so pairs need no sorting. Product tokens are on the GPU; the tokens of a text are joined there.
"""

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from endcap_server.engines.encoder_runtime import EngineLoadError, RuntimeOptions
from endcap_server.shop.columns import Array, Ragged

_IN_FLIGHT = 2
"""Micro-batches: the CPU lays one out while the GPU computes the other."""


class PackedRuntime:
    """One packed cross-encoder on one GPU. Not re-entrant: one thread calls ``run``."""

    def __init__(self, folder: Path, options: RuntimeOptions, products: Ragged, separator: int) -> None:
        """Load the Hugging Face checkpoint in ``folder`` and the tokens of all products.

        Without a GPU this is refused, except in tests, where the process interprets kernels on the CPU
        (``TRITON_INTERPRET=1``), a thousand times slower.
        """
        try:
            import torch
            from endcap_kernels import PackedCrossEncoder
            from endcap_kernels.dispatch import INTERPRETED
        except ImportError as error:
            raise EngineLoadError(
                f"implementation packed: expected the packages torch, triton and endcap_kernels, got {error}; install "
                "endcap[kernels] where the engine runs, or serve with --profile cpu"
            ) from None
        if not torch.cuda.is_available() and not INTERPRETED:
            raise EngineLoadError("implementation packed: expected an NVIDIA GPU, found none; serve with --profile cpu")
        precisions = {"auto": None, "f32": torch.float32, "bf16": torch.bfloat16}
        try:
            self._encoder = PackedCrossEncoder.from_pretrained(folder, dtype=precisions[options.precision])
        except (ValueError, FileNotFoundError) as error:
            raise EngineLoadError(f"implementation packed: {error}; run endcap build cross_encoder") from None
        if self._encoder.labels != 1:
            raise EngineLoadError(f"{folder}: expected one score a pair, got {self._encoder.labels}")
        self._encoder.load_products(products.values, products.offsets, separator)
        self._encoder.warm_up(options.token_budget)
        self.options = RuntimeOptions(
            precision="bf16" if self._encoder.dtype == torch.bfloat16 else "f32",
            token_budget=options.token_budget,
            implementation="packed",
        )

    def run(
        self, texts: Sequence[Array], text: Array, product: Array, alive: Callable[[], Array] | None = None
    ) -> tuple[Array, Array]:
        """Score pairs.

        Args:
            texts: tokens of each text with special tokens, int [any].
            text: which text each pair is of, int [n].
            product: which product, int [n].
            alive: called before each micro-batch; which pairs (bool [n]) are still needed.

        Returns:
            float32 [n, 1], and bool [n]: which pairs were computed.
        """
        results = np.zeros((len(text), 1), np.float32)
        done = np.zeros(len(text), np.bool_)
        in_flight: deque[tuple[Array, Callable[[], Any]]] = deque()

        def collect() -> None:
            rows, wait = in_flight.popleft()
            results[rows, 0] = wait().numpy()
            done[rows] = True

        for planned in self._micro_batches(self._encoder.pair_lengths(texts, text, product)):
            if len(in_flight) == _IN_FLIGHT:
                collect()
            rows = planned if alive is None else planned[alive()[planned]]
            if len(rows):
                in_flight.append((rows, self._encoder.start_products(texts, text[rows], product[rows])))
        while in_flight:
            collect()
        return results, done

    def _micro_batches(self, lengths: Array) -> list[Array]:
        """Rows of each micro-batch, int64 [b], in order; each within the token budget, or one pair."""
        ends, batches, start = np.cumsum(lengths), [], 0
        while start < len(lengths):
            before = int(ends[start - 1]) if start else 0
            end = int(np.searchsorted(ends, before + self.options.token_budget, side="right"))
            end = max(end, start + 1)
            batches.append(np.arange(start, end))
            start = end
        return batches
