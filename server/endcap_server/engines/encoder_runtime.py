"""Runs an OpenVINO encoder over sequences of different lengths in length-sorted micro-batches.

On a CPU, this saves most of the computation on padding.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from endcap_server.engines import openvino_cpu
from endcap_server.shop.columns import Array

Fill = Callable[[Array, Array, Array], None]
"""Writes the token ids of rows int [b] into ids int64 [b, width], and types that are not 0 into int64 [b, width]."""

MAX_STREAMS = 8
"""Most streams by default; one request has too few micro-batches for more."""


class EngineLoadError(ValueError):
    """An engine's files are missing or do not fit; the message says which and what to do."""


@dataclass(frozen=True)
class RuntimeOptions:
    """How an encoder uses the machine; 0 means that the number of cores decides."""

    threads: int = 0
    """CPU threads; 0: all that are available to this process."""
    streams: int = 0
    """Micro-batches computed in parallel; 0: one per thread, at most 8. Products of this size do not use two cores."""
    precision: str = "f32"
    """``f32``, ``bf16``, or ``auto``: bf16 where the CPU computes with it. In bf16, what a sequence yields depends on
    its micro-batch (by some 1e-3), so that near ties may change places from one answer to the next."""
    token_budget: int = 640
    """Tokens of a micro-batch: about 20 pairs of query and product title. Fewer do not fill the matrix units."""
    implementation: str = "openvino"
    """What computes: ``openvino`` (``model.xml``) on the CPU, or on a GPU ``tensorrt`` (``model.plan``) or ``packed``
    (the checkpoint; see ``packed_runtime``)."""

    def resolved(self) -> "RuntimeOptions":
        """Return the options with every 0 and ``auto`` replaced by values for this machine."""
        if self.precision not in ("auto", "f32", "bf16"):
            raise EngineLoadError(f"precision: expected auto, f32 or bf16, got {self.precision!r}")
        for name, least in (("threads", 0), ("streams", 0), ("token_budget", 1)):
            if getattr(self, name) < least:
                raise EngineLoadError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        threads = self.threads or len(os.sched_getaffinity(0))
        streams = self.streams or min(threads, MAX_STREAMS)
        precision = openvino_cpu.resolved_precision(self.precision)
        return replace(self, threads=threads, streams=min(streams, threads), precision=precision)


class Encoder(Protocol):
    """A compiled encoder of any implementation."""

    options: RuntimeOptions
    outputs: int

    def run(self, lengths: Array, fill: Fill, alive: Callable[[], Array] | None = None) -> tuple[Array, Array]:
        """As ``EncoderRuntime.run``."""


def plan_micro_batches(lengths: Array, token_budget: int, streams: int = 1) -> list[Array]:
    """Cut sequences into micro-batches of similar lengths, the longest first.

    All have about the same number of tokens before padding: at most ``token_budget`` plus one sequence. Their number is
    a multiple of ``streams``, so that no stream is idle at the end.

    Args:
        lengths: tokens of each sequence, int [n].
        token_budget: tokens of a micro-batch.
        streams: micro-batches computed at the same time.

    Returns:
        Rows of each micro-batch, int64 [b].
    """
    if not len(lengths):
        return []
    order = np.argsort(lengths, kind="stable")[::-1]
    ends = np.cumsum(lengths[order])
    count = min(-(-int(ends[-1]) // (token_budget * streams)) * streams, len(order))
    cuts = np.searchsorted(ends * count, ends[-1] * np.arange(1, count), side="right")
    return [rows for rows in np.split(order, cuts) if len(rows)]


class EncoderRuntime:
    """One compiled encoder. Not re-entrant: one thread calls ``run``."""

    def __init__(self, model: Path, options: RuntimeOptions) -> None:
        """Compile ``model`` (OpenVINO IR, inputs int64 [batch, length], first output float [batch, outputs])."""
        if not model.exists():
            raise EngineLoadError(f"{model}: expected an exported encoder, found none; run endcap build")
        import openvino as ov  # not in the GPU container

        self.options = options.resolved()
        self._compiled = openvino_cpu.core().compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": self.options.precision,
                "INFERENCE_NUM_THREADS": self.options.threads,
                "NUM_STREAMS": self.options.streams,
                **openvino_cpu.PROPERTIES,
            },
        )
        self._names = [port.any_name for port in self._compiled.inputs]
        known = {"input_ids", "attention_mask", "token_type_ids"}
        if not {"input_ids", "attention_mask"} <= set(self._names) <= known:
            raise EngineLoadError(f"{model}: expected inputs {sorted(known)}, got {sorted(self._names)}")
        shape = self._compiled.outputs[0].partial_shape
        if shape.rank.get_length() != 2 or shape[1].is_dynamic:
            raise EngineLoadError(f"{model}: expected an output of [batch, a fixed width], got {shape}")
        self.outputs = int(shape[1].get_length())
        self._queue = ov.AsyncInferQueue(self._compiled, self.options.streams)

    def run(self, lengths: Array, fill: Fill, alive: Callable[[], Array] | None = None) -> tuple[Array, Array]:
        """Compute all sequences.

        Args:
            lengths: tokens of each sequence with special tokens, int [n].
            fill: writes the tokens of some rows.
            alive: asked before each micro-batch which rows (bool [n]) are still worth computing.

        Returns:
            float32 [n, outputs], and bool [n]: which rows were computed.
        """
        lengths = np.asarray(lengths, np.int64)
        results = np.zeros((len(lengths), self.outputs), np.float32)
        done = np.zeros(len(lengths), np.bool_)

        def collect(request: Any, rows_and_feed: tuple[Array, dict[str, Array]]) -> None:
            results[rows_and_feed[0]] = request.get_output_tensor(0).data
            done[rows_and_feed[0]] = True

        self._queue.set_callback(collect)
        for planned in plan_micro_batches(lengths, self.options.token_budget, self.options.streams):
            rows = planned
            if alive is not None:
                self._queue.get_idle_request_id()  # first wait for a free stream, because `alive` can change meanwhile
                rows = rows[alive()[rows]]
                if not len(rows):
                    continue
            feed = make_feed(self._names, rows, lengths[rows], fill)
            self._queue.start_async(feed, (rows, feed), share_inputs=True)
        self._queue.wait_all()
        return results, done


def make_feed(names: Sequence[str], rows: Array, lengths: Array, fill: Fill, step: int = 1) -> dict[str, Array]:
    """The inputs ``names`` of a micro-batch, int64 [b, width], padded to the longest, rounded up to ``step``."""
    width = max(-(-int(lengths.max()) // step) * step, 1)
    ids, types = np.zeros((2, len(rows), width), np.int64)
    fill(rows, ids, types)
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return {name: feed[name] for name in names}
