"""Runs a TensorRT encoder over sequences of different lengths; the GPU's counterpart of `EncoderRuntime`.

A GPU needs few, large micro-batches: sequences are sorted by length and split where batch times padded length reaches
the token budget. Two micro-batches are in flight, so the CPU prepares one while the GPU computes the other.
"""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from endcap_server.engines.encoder_runtime import EngineLoadError, Fill, RuntimeOptions, make_feed
from endcap_server.shop.columns import Array

WIDTH_STEP = 8
"""Lengths are padded to a multiple of this, for tensor cores."""
_IN_FLIGHT = 2


class Device(Protocol):
    """Computes micro-batches: a TensorRT engine, or a substitute in tests."""

    names: tuple[str, ...]
    """Its inputs, each int64 [batch, length]."""
    outputs: int

    def most_rows(self, width: int) -> int:
        """Most sequences of ``width`` tokens in one micro-batch; 0: too long."""

    def start(self, feed: dict[str, Array]) -> Callable[[], Array]:
        """Start computing; the returned function waits and gives float32 [batch, outputs]."""


class TensorRtRuntime:
    """One TensorRT encoder on one GPU. Not re-entrant: one thread calls ``run``."""

    def __init__(self, model: Path, options: RuntimeOptions, device: Device | None = None) -> None:
        """Load the engine ``model`` (``.plan``) onto the GPU, or use ``device``."""
        self.model = model
        self.options = RuntimeOptions(precision="plan", token_budget=options.token_budget, implementation="tensorrt")
        self._device = device or TensorRtDevice(model)
        self.outputs = self._device.outputs

    def run(self, lengths: Array, fill: Fill, alive: Callable[[], Array] | None = None) -> tuple[Array, Array]:
        """Compute all sequences; arguments and results are those of ``EncoderRuntime.run``."""
        lengths = np.asarray(lengths, np.int64)
        results = np.zeros((len(lengths), self.outputs), np.float32)
        done = np.zeros(len(lengths), np.bool_)
        in_flight: deque[tuple[Array, Callable[[], Array]]] = deque()

        def collect() -> None:
            rows, wait = in_flight.popleft()
            results[rows] = wait()
            done[rows] = True

        for planned in self._plan(lengths):
            if len(in_flight) == _IN_FLIGHT:
                collect()
            rows = planned if alive is None else planned[alive()[planned]]
            if len(rows):
                feed = make_feed(self._device.names, rows, lengths[rows], fill, WIDTH_STEP)
                in_flight.append((rows, self._device.start(feed)))
        while in_flight:
            collect()
        return results, done

    def _plan(self, lengths: Array) -> list[Array]:
        """Rows of each micro-batch, int64 [b], the longest sequences first."""
        order = np.argsort(lengths, kind="stable")[::-1]
        batches, start = [], 0
        while start < len(order):
            width = max(-(-int(lengths[order[start]]) // WIDTH_STEP) * WIDTH_STEP, WIDTH_STEP)
            most = self._device.most_rows(width)
            if not most:
                raise EngineLoadError(f"{self.model}: a sequence has {width} tokens, too many; run endcap build")
            count = max(1, min(most, self.options.token_budget // width))
            batches.append(order[start : start + count])
            start += count
        return batches


class TensorRtDevice:
    """A deserialised engine with one execution context for each optimisation profile."""

    def __init__(self, model: Path) -> None:
        try:
            import tensorrt as trt
            import torch
        except ImportError as error:
            raise EngineLoadError(
                f"implementation tensorrt: expected the packages tensorrt and torch, got {error}; serve inside the GPU "
                "container (docs/gpu.md), or with --profile cpu"
            ) from None
        if not model.exists():
            raise EngineLoadError(f"{model}: expected a TensorRT engine, found none; run endcap build --profile gpu")
        if not torch.cuda.is_available():
            raise EngineLoadError(
                "implementation tensorrt: expected an NVIDIA GPU, found none; serve with --profile cpu"
            )
        self._torch = torch
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))  # has to outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(model.read_bytes())
        if self._engine is None:
            raise EngineLoadError(
                f"{model}: expected an engine of TensorRT {trt.__version__} for {torch.cuda.get_device_name()}, got "
                "one of another release or GPU; run endcap build --profile gpu on this machine"
            )
        tensors = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        given = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in tensors}
        self.names = tuple(name for name in tensors if given[name])
        self._output = next(name for name in tensors if not given[name])
        self.outputs = int(self._engine.get_tensor_shape(self._output)[1])
        self._stream = torch.cuda.Stream()
        self._contexts = [self._open_context(index) for index in range(self._engine.num_optimization_profiles)]
        self._stream.synchronize()

    def most_rows(self, width: int) -> int:
        """Most rows of the first optimisation profile for this width."""
        return next((rows for rows, longest, _ in self._contexts if width <= longest), 0)

    def start(self, feed: dict[str, Array]) -> Callable[[], Array]:
        """Queue copy in, computation and copy out on the engine's own stream."""
        torch = self._torch
        rows, width = feed["input_ids"].shape
        context = next(context for most, longest, context in self._contexts if rows <= most and width <= longest)
        # All device memory is allocated on this stream, so PyTorch does not reuse it before the queued work is done.
        with torch.cuda.stream(self._stream):
            output = torch.empty((rows, self.outputs), dtype=torch.float32, device="cuda")
            context.set_tensor_address(self._output, output.data_ptr())
            tensors = {name: torch.from_numpy(feed[name]).pin_memory() for name in self.names}
            tensors = {name: tensor.to("cuda", non_blocking=True) for name, tensor in tensors.items()}
            for name, tensor in tensors.items():
                context.set_input_shape(name, tuple(tensor.shape))
                context.set_tensor_address(name, tensor.data_ptr())
            if not context.execute_async_v3(self._stream.cuda_stream):
                raise RuntimeError(f"TensorRT refused a micro-batch of shape [{rows}, {width}]; see the server's log")
            host = torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
            host.copy_(output, non_blocking=True)
            finished = torch.cuda.Event()
            finished.record()

        def wait() -> Array:
            finished.synchronize()
            return np.array(host.numpy())

        return wait

    def _open_context(self, index: int) -> tuple[int, int, Any]:
        """(most rows, longest width, context) of an optimisation profile."""
        context = self._engine.create_execution_context()
        if not context.set_optimization_profile_async(index, self._stream.cuda_stream):
            raise EngineLoadError(
                f"optimisation profile {index} of the engine cannot be selected; is there GPU memory?"
            )
        rows, longest = self._engine.get_tensor_profile_shape("input_ids", index)[2]
        return int(rows), int(longest), context
