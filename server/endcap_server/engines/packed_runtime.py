"""Runs the checkpoints of both encoders on flat tokens with endcap's own Triton kernels (package `endcap_kernels`).

Nothing is padded, so pairs need no sorting. Product tokens are on the GPU; the tokens of a text are joined there.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from endcap_server.engines.encoder_runtime import EngineLoadError, Fill, RuntimeOptions
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
        kernels, dtype = _kernels(options)
        with _as_load_errors("cross_encoder"):
            self._encoder = kernels.PackedCrossEncoder.from_pretrained(folder, dtype=dtype)
        if self._encoder.labels != 1:
            raise EngineLoadError(f"{folder}: expected one score a pair, got {self._encoder.labels}")
        self._encoder.load_products(products.values, products.offsets, separator)
        self._encoder.warm_up(options.token_budget)
        self.options = _used(options, self._encoder.dtype)

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
        lengths = self._encoder.pair_lengths(texts, text, product)

        def start(rows: Array) -> Callable[[], Any]:
            wait = self._encoder.start_products(texts, text[rows], product[rows])
            return lambda: wait().numpy()[:, None]

        return _run_batches(micro_batches(lengths, self.options.token_budget), len(text), 1, start, alive)


class PackedTexts:
    """One packed bi-encoder on one GPU: an `Encoder`. Not re-entrant: one thread calls ``run``."""

    def __init__(self, folder: Path, options: RuntimeOptions, pooling: str) -> None:
        """Load the Hugging Face checkpoint in ``folder``; ``pooling`` says what a vector is made of."""
        if not pooling:
            raise EngineLoadError(
                f"{folder}: expected a bi-encoder that the kernels can run (a BERT with pooling by mean or [CLS]), got "
                "another one, or an older build; run endcap build bi_encoder, or set implementation openvino"
            )
        kernels, dtype = _kernels(options)
        with _as_load_errors("bi_encoder"):
            self._encoder = kernels.PackedBiEncoder.from_pretrained(folder, pooling, dtype=dtype)
        self._encoder.warm_up(options.token_budget)
        self.outputs: int = self._encoder.dimension
        self.options = _used(options, self._encoder.dtype)

    def run(self, lengths: Array, fill: Fill, alive: Callable[[], Array] | None = None) -> tuple[Array, Array]:
        """Compute all texts; arguments and results are those of ``EncoderRuntime.run``."""
        lengths = np.asarray(lengths, np.int64)

        def start(rows: Array) -> Callable[[], Any]:
            ids, types = np.zeros((2, len(rows), int(lengths[rows].max())), np.int64)
            fill(rows, ids, types)
            wait = self._encoder.start([line[:length] for line, length in zip(ids, lengths[rows], strict=True)])
            return lambda: wait().numpy()

        batches = micro_batches(lengths, self.options.token_budget)
        return _run_batches(batches, len(lengths), self.outputs, start, alive)


def micro_batches(lengths: Array, token_budget: int) -> list[Array]:
    """Rows of each micro-batch, int64 [b], in order; each within the token budget, or one sequence."""
    ends, batches, start = np.cumsum(lengths), [], 0
    while start < len(lengths):
        before = int(ends[start - 1]) if start else 0
        end = int(np.searchsorted(ends, before + token_budget, side="right"))
        end = max(end, start + 1)
        batches.append(np.arange(start, end))
        start = end
    return batches


def _run_batches(
    batches: Sequence[Array],
    count: int,
    outputs: int,
    start: Callable[[Array], Callable[[], Any]],
    alive: Callable[[], Array] | None,
) -> tuple[Array, Array]:
    """Results float32 [count, outputs] of micro-batches, two of which are in flight; bool [count], which were done."""
    results = np.zeros((count, outputs), np.float32)
    done = np.zeros(count, np.bool_)
    in_flight: deque[tuple[Array, Callable[[], Any]]] = deque()

    def collect() -> None:
        rows, wait = in_flight.popleft()
        results[rows] = wait()
        done[rows] = True

    for planned in batches:
        if len(in_flight) == _IN_FLIGHT:
            collect()
        rows = planned if alive is None else planned[alive()[planned]]
        if len(rows):
            in_flight.append((rows, start(rows)))
    while in_flight:
        collect()
    return results, done


def _kernels(options: RuntimeOptions) -> tuple[Any, Any]:
    """The package of kernels, and the type that the options ask for; raises EngineLoadError."""
    try:
        import endcap_kernels
        import torch
        from endcap_kernels.dispatch import INTERPRETED
    except ImportError as error:
        raise EngineLoadError(
            f"implementation packed: expected the packages torch, triton and endcap_kernels, got {error}; install "
            "endcap[kernels] where the engine runs, or serve with --profile cpu"
        ) from None
    if not torch.cuda.is_available() and not INTERPRETED:
        raise EngineLoadError("implementation packed: expected an NVIDIA GPU, found none; serve with --profile cpu")
    return endcap_kernels, {"auto": None, "f32": torch.float32, "bf16": torch.bfloat16}[options.precision]


@contextmanager
def _as_load_errors(step: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise EngineLoadError(f"implementation packed: {error}; run endcap build {step}") from None


def _used(options: RuntimeOptions, dtype: Any) -> RuntimeOptions:
    """The options as they are used."""
    precision = "bf16" if str(dtype) == "torch.bfloat16" else "f32"
    return RuntimeOptions(precision=precision, token_budget=options.token_budget, implementation="packed")
