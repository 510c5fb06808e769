"""An engine as a Triton model: one worker thread serves all waiting requests in one batch.

Triton's dynamic batcher needs equal shapes and a batch dimension. endcap's engines accept ragged requests, so they
batch themselves: `execute` only reads tensors and returns; the worker sends the responses.
"""

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from endcap_server.declared.errors import InvalidRequest
from endcap_server.declared.model import ModelDeclaration
from endcap_server.declared.reasons import Cause, marked
from endcap_server.declared.tensors import Tensors
from endcap_server.serving.metrics import EngineMetrics
from endcap_server.shop.gates import is_installed
from endcap_server.triton.device import select_gpu
from endcap_server.triton.metrics import MetricsReporter
from endcap_server.triton.process import end_when_continued
from endcap_server.triton.tensors import (
    build_folder,
    complete,
    config_parameters,
    deadline_of,
    input_names,
    output_tensors,
    read_inputs,
    refuse,
)

NO_DEADLINE_S = 60.0
"""Time limit of a request without a deadline, seconds."""


@dataclass(frozen=True, eq=False)
class Job:
    """One request in flight: its input, and the sender of its response."""

    work: Any
    sender: Any
    requested: list[str]
    deadline_ns: int
    metrics: EngineMetrics
    arrived_ns: int = field(default_factory=time.monotonic_ns)

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer."""
        return time.monotonic_ns() > self.deadline_ns or bool(self.sender.is_cancelled())

    def send(self, result: Tensors | Exception) -> None:
        """Answer the caller."""
        if isinstance(result, InvalidRequest):
            refuse(self.sender, marked(Cause.FAILED, str(result)), pb_utils.TritonError.INVALID_ARG)
            outcome = "invalid"
        elif isinstance(result, TimeoutError):
            message = marked(Cause.LATE, str(result) or "the deadline passed")
            refuse(self.sender, message, pb_utils.TritonError.CANCELLED)
            outcome = "abandoned"
        elif isinstance(result, Exception):
            message = marked(Cause.FAILED, f"{type(result).__name__}: {result}")
            refuse(self.sender, message, pb_utils.TritonError.INTERNAL)
            outcome = "failed"
        else:
            complete(self.sender, pb_utils.InferenceResponse(output_tensors(result, self.requested)))
            outcome = "answered"
        self.metrics.ended(outcome, (time.monotonic_ns() - self.arrived_ns) / 1e9)


class EngineModel(ABC):
    """Base of all engine models: reads requests and refuses invalid ones."""

    declaration: ModelDeclaration
    """Of the engine; the model's name can differ from its name."""
    engine: Any = None

    @abstractmethod
    def open(self, build: Path, settings: Any) -> Any:
        """Load and return the engine."""

    @abstractmethod
    def read(self, tensors: Tensors, deadline_ns: int) -> Any:
        """The engine's input; raises InvalidRequest."""

    @abstractmethod
    def take(self, job: Job) -> None:
        """Accept a job; it is answered later by `job.send`."""

    @abstractmethod
    def close(self) -> None:
        """Stop the engine's threads."""

    @property
    def name(self) -> str:
        """Name of the engine."""
        return self.declaration.name

    def finalize(self) -> None:
        """Stop the engine."""
        self.close()
        self._reporter.stop()

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the build."""
        end_when_continued()
        parameters = config_parameters(args["model_config"])
        build = build_folder(args, parameters)
        if args["model_instance_kind"] == "GPU":
            select_gpu(int(args["model_instance_device_id"]))
        self._inputs = input_names(args["model_config"])
        self._required = [each.name for each in self.declaration.inputs if not each.optional]
        self.metrics = EngineMetrics(self.name)
        self.installed = is_installed(build, self.name)
        """Whether the build installed the model. If not, the engine loads nothing and refuses requests."""
        if self.installed:
            self.engine = self.open(build, self.declaration.parameters.from_strings(self.name, parameters))
        self._reporter = MetricsReporter(self.metrics, args["model_name"])

    def execute(self, requests: list[Any]) -> None:
        """Queue the requests; responses follow from the engine's thread."""
        for request in requests:
            deadline_ns = deadline_of(request) or time.monotonic_ns() + int(NO_DEADLINE_S * 1e9)
            sender = request.get_response_sender()
            self.metrics.arrived()
            if not self.installed:
                refuse(
                    sender, f"{self.name} is not installed: see the build's manifest", pb_utils.TritonError.UNAVAILABLE
                )
                self.metrics.ended("failed", 0.0)
                continue
            try:
                tensors = read_inputs(request, self._inputs)
                for name in self._required:
                    if name not in tensors:
                        raise InvalidRequest(name, "this tensor", "none")
                work = self.read(tensors, deadline_ns)
            except InvalidRequest as error:
                refuse(sender, marked(Cause.FAILED, str(error)), pb_utils.TritonError.INVALID_ARG)
                self.metrics.ended("invalid", 0.0)
                continue
            self.take(Job(work, sender, request.requested_output_names(), deadline_ns, self.metrics))


class BatchingModel(EngineModel):
    """A model whose engine answers a list of requests in one batch."""

    caches = True
    """Whether the engine caches parts of its answers and counts hits and misses."""
    max_batch_cost: float = 64.0
    """Cost of jobs at which a batch is full."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the build and start the worker."""
        super().initialize(args)
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)
        self._worker.start()

    @abstractmethod
    def tensors(self, result: Any) -> Tensors:
        """The outputs of one of the engine's answers."""

    def cost(self, work: Any) -> float:
        """Cost of a job in its batch."""
        return 1.0

    def take(self, job: Job) -> None:
        """Queue the job for the worker."""
        self._queue.put(job)

    def _work(self) -> None:
        while (jobs := self._next_batch()) is not None:
            live = []
            for job in jobs:
                if job.abandoned:
                    job.send(TimeoutError("nobody waits for the answer any more"))
                else:
                    live.append(job)
            if not live:
                continue
            begun_ns = time.monotonic_ns()
            try:
                results = [
                    each if isinstance(each, Exception) else self.tensors(each)
                    for each in self.engine.run([job.work for job in live])
                ]
            except Exception as error:  # callers get the error, the engine continues
                pb_utils.Logger.log_error(f"{type(self).__name__}: {type(error).__name__}: {error}")
                results = [error] * len(live)
            for job, result in zip(live, results, strict=True):
                job.send(result)
            self.metrics.batch(len(live), [(begun_ns - job.arrived_ns) / 1e9 for job in live])
            if self.caches:
                self.metrics.cache(*self.engine.cache_use())

    def _next_batch(self) -> list[Job] | None:
        """Wait for a job, then take waiting jobs up to the batch's cost; None when the model is unloaded."""
        job = self._queue.get()
        jobs, cost = [], 0.0
        while True:
            if job is None:
                return None
            jobs.append(job)
            cost += self.cost(job.work)
            if cost >= self.max_batch_cost:
                return jobs
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return jobs

    def close(self) -> None:
        """Stop the worker."""
        self._queue.put(None)
        self._worker.join(timeout=5)
