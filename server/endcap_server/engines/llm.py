"""A student LLM on the CPU: openvino-genai continuous batching, one grammar per request, one scheduler thread.

Requests of all callers share each decoding step. ``step()`` of openvino-genai is not re-entrant and holds the GIL, so
one thread owns the pipeline, and in production the class should have its own process.
"""

import json
import queue
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from tokenizers import Tokenizer

from endcap_server.engines import openvino_cpu
from endcap_server.engines.llm_engine import (
    GONE,
    AbandonedError,
    Completion,
    LlmEngine,
    LlmError,
    LlmRequest,
    bytes_per_token,
)

_KV_BLOCK_TOKENS = 32  # openvino-genai's block size on the CPU
_RUNNING = openvino_genai.GenerationStatus.RUNNING
_FINISHED = openvino_genai.GenerationStatus.FINISHED
_LENGTH = openvino_genai.GenerationFinishReason.LENGTH


@dataclass(eq=False)
class _Request(LlmRequest):
    handle: Any = None
    tokens: list[int] = field(default_factory=list)
    proven: bool = False  # a decoding step with it has succeeded


class Llm(LlmEngine):
    """A student in openvino-genai's continuous batching."""

    def __init__(
        self,
        folder: Path,
        *,
        threads: int = 2,
        precision: str = "f32",
        cache_mb: int = 64,
        max_sequences: int = 32,
        max_waiting: int = 256,
    ) -> None:
        """Load and compile an exported student.

        Args:
            folder: OpenVINO model, tokenizer and ``config.json``, as the builders export them.
            threads: cores for one decoding step.
            precision: of the activations that are not 8-bit, "f32", "bf16", or "auto": bf16 if the CPU supports it. For
                students of a few million parameters, "f32" generates faster and "bf16" reads long prompts faster.
            cache_mb: memory for keys and values, MiB; also caches prefixes that later prompts can share.
            max_sequences: most sequences in one decoding step.
            max_waiting: most requests in the queue; more are refused at once.

        Raises:
            LlmError: the folder does not hold an exported model, or openvino-genai cannot load it.
        """
        for name in ("openvino_model.xml", "openvino_tokenizer.xml", "tokenizer.json", "config.json"):
            if not (folder / name).is_file():
                raise LlmError(f"{folder}: expected an exported LLM with {name}, found none; run endcap build")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.max_length = int(config.get("max_position_embeddings", 2048))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = max(2, cache_mb * 2**20 // (_KV_BLOCK_TOKENS * bytes_per_token(config)))
        scheduler.cache_size = 0
        # A prompt is read in one step: for small models, splitting prompts only adds steps.
        scheduler.max_num_batched_tokens = max(4096, self.max_length)
        scheduler.dynamic_split_fuse = False
        scheduler.max_num_seqs = max_sequences
        scheduler.enable_prefix_caching = True
        properties = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": openvino_cpu.resolved_precision(precision),
            "PERFORMANCE_HINT": "LATENCY",
            **openvino_cpu.PROPERTIES,
        }

        def make_pipeline() -> Any:
            with openvino_cpu.signal_stack_kept():
                return openvino_genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)

        try:
            self._pipeline = make_pipeline()
        except RuntimeError as error:
            raise LlmError(f"{folder}: openvino-genai cannot load the model: {error}") from error
        self._make_pipeline = make_pipeline
        self._capacity = (scheduler.num_kv_blocks - 1) * _KV_BLOCK_TOKENS
        self._max_waiting = max_waiting
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._number = 0
        self._suspects: deque[_Request] = deque()
        self._thread = threading.Thread(target=self._schedule, name="llm", daemon=True)
        self._thread.start()

    def submit(self, request: LlmRequest) -> None:
        """Queue a prompt for the next decoding step."""
        if self._closed.is_set():
            request.on_done(LlmError("the LLM engine is closed"))
        elif self._queue.qsize() >= self._max_waiting:
            request.on_done(LlmError(f"the LLM engine is busy: {self._max_waiting} requests wait"))
        else:
            self._queue.put(_Request(**vars(request)))

    def close(self) -> None:
        """Answer what is in flight with an error and stop the thread."""
        if not self._closed.is_set():
            self._closed.set()
            self._queue.put(None)
        self._thread.join(timeout=30)

    def _schedule(self) -> None:
        active: list[_Request] = []
        while True:
            active += self._accept(wait=not active)
            if self._closed.is_set():
                break
            if not active:
                continue
            try:
                self._pipeline.step()
            except Exception as error:  # errors of native code: callers get the error, the engine continues
                active = self._recover(active, error)
                continue
            for request in active:
                request.proven = True
            active = [request for request in active if not self._settle(request)]
        for request in [*active, *self._suspects, *self._drain()]:
            _cancel(request)
            request.on_done(LlmError("the LLM engine is closed"))

    def _accept(self, *, wait: bool) -> list[_Request]:
        """Start the waiting requests; when nothing is in flight, wait for one."""
        if self._suspects:
            suspect = self._suspects.popleft()
            return [suspect] if self._start(suspect) else []
        waiting = self._drain()
        if not waiting and wait:
            first = self._queue.get()
            waiting = [] if first is None else [first, *self._drain()]
        return [request for request in waiting if self._start(request)]

    def _recover(self, active: list[_Request], error: Exception) -> list[_Request]:
        """Find the request that made a step fail: a wrong grammar fails only there, and makes all later steps fail.

        The pipeline is created again, and proven requests start again. If only one request was new, it is the cause. If
        several were new, they start again one by one.
        """
        self._pipeline = self._make_pipeline()
        new = [request for request in active if not request.proven]
        guilty = new or active
        if len(guilty) == 1 or not new:
            for request in guilty:
                request.on_done(LlmError(f"decoding failed, probably by the grammar: {str(error)[-300:]}"))
        else:
            self._suspects.extend(guilty)
        proven = [request for request in active if request not in guilty]
        return [request for request in proven if self._start(request)]

    def _drain(self) -> list[_Request]:
        waiting: list[_Request] = []
        while True:
            try:
                request = self._queue.get_nowait()
            except queue.Empty:
                return waiting
            if request is not None:
                waiting.append(request)

    def _start(self, request: _Request) -> bool:
        if request.too_late:
            request.on_done(AbandonedError(GONE))
            return False
        try:
            ids = self._prompt_tokens(request, min(self.max_length, self._capacity))
        except LlmError as error:
            request.on_done(error)
            return False
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = request.max_tokens
        config.do_sample = False
        config.set_eos_token_id(self._pipeline.get_config().eos_token_id)
        if request.grammar:
            config.structured_output_config = openvino_genai.StructuredOutputConfig(grammar=request.grammar)
        self._number += 1
        request.tokens = []
        try:
            tensor = openvino.Tensor(np.asarray([ids], np.int64))
            request.handle = self._pipeline.add_request(self._number, tensor, config)
        except Exception as error:  # a wrong grammar raises here
            request.on_done(LlmError(f"grammar or prompt refused: {str(error)[-300:]}"))
            return False
        return True

    def _settle(self, request: _Request) -> bool:
        """Read the tokens of a step; answer the request if it is complete."""
        cut = False
        while request.handle.can_read():
            for output in request.handle.read().values():
                request.tokens += output.generated_ids
                cut = output.finish_reason == _LENGTH
        status = request.handle.get_status()
        if status == _FINISHED:
            request.on_done(Completion(self._text(request), "length" if cut else "stop"))
            return True
        if status != _RUNNING:
            request.on_done(LlmError(f"the request was dropped ({status}): the key-value cache is too small for it"))
            return True
        if request.too_late:
            _cancel(request)
            if request.tokens and not request.abandoned():
                request.on_done(Completion(self._text(request), "cancelled"))
            else:
                request.on_done(AbandonedError(GONE))
            return True
        return False

    def _text(self, request: _Request) -> str:
        return self._tokenizer.decode(request.tokens, skip_special_tokens=True)


def _cancel(request: _Request) -> None:
    if request.handle is not None:
        request.handle.cancel()
