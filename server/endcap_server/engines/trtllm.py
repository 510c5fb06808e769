"""A student LLM on the GPU: TensorRT-LLM's LLM API, in-flight batching, one grammar per request.

Each request is a coroutine on one event loop and reads its tokens as they are generated. When the deadline passes, the
request is aborted and answered with the tokens so far.
"""

import asyncio
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from endcap_server.engines.llm_engine import (
    GONE,
    AbandonedError,
    Completion,
    Finish,
    LlmEngine,
    LlmError,
    LlmRequest,
    bytes_per_token,
)

_CHECKED_GRAMMARS = 4096
"""Grammars that are remembered as right."""
_FINISH: dict[str, Finish] = {"stop": "stop", "length": "length"}


class TrtLlm(LlmEngine):
    """A student in TensorRT-LLM's PyTorch backend."""

    def __init__(self, folder: Path, *, cache_mb: int = 1024, max_sequences: int = 64, max_waiting: int = 256) -> None:
        """Load a Hugging Face checkpoint onto the GPU.

        Args:
            folder: weights, ``config.json`` and tokenizer, as a build with ``--profile gpu`` writes them.
            cache_mb: memory for keys and values, MiB; also caches prefixes that later prompts can share.
            max_sequences: most sequences in one decoding step.
            max_waiting: most requests in the queue; more are refused at once.

        Raises:
            LlmError: TensorRT-LLM or the checkpoint is missing, or it cannot be loaded.
        """
        for name in ("config.json", "tokenizer.json"):
            if not (folder / name).is_file():
                raise LlmError(
                    f"{folder}: expected a checkpoint with {name}, found none; run endcap build --profile gpu"
                )
        try:
            import tensorrt_llm
            import xgrammar
            from tensorrt_llm import llmapi
        except ImportError as error:
            raise LlmError(
                f"implementation tensorrt_llm: expected the package tensorrt_llm, got {error}; serve inside the GPU "
                "container (docs/gpu.md), or with --profile cpu"
            ) from None
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.max_length = int(config.get("max_position_embeddings", 2048))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._api, self._grammars = llmapi, xgrammar.Grammar
        try:
            self._llm = tensorrt_llm.LLM(
                model=str(folder),
                max_batch_size=max_sequences,
                max_seq_len=self.max_length,
                max_num_tokens=max(8192, self.max_length),
                guided_decoding_backend="xgrammar",
                # By default it takes a share of the free memory, which other engines of this GPU need.
                kv_cache_config=llmapi.KvCacheConfig(
                    max_tokens=max(self.max_length, cache_mb * 2**20 // bytes_per_token(config)),
                    enable_block_reuse=True,
                ),
            )
        except Exception as error:  # TensorRT-LLM documents no exceptions
            raise LlmError(f"{folder}: TensorRT-LLM cannot load the model: {error}") from error
        self._max_waiting, self._most = max_waiting, max_sequences + max_waiting
        self._closed = False
        self._checked: set[str] = set()
        self._open: set[asyncio.Task[None]] = set()
        self._count = 0
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="trtllm", daemon=True)
        self._thread.start()

    def submit(self, request: LlmRequest) -> None:
        """Hand a prompt to the event loop."""
        with self._lock:
            refusal = "the LLM engine is closed" if self._closed else ""
            if not refusal and self._count >= self._most:
                refusal = f"the LLM engine is busy: {self._max_waiting} requests wait"
            if not refusal:
                self._count += 1
                self._loop.call_soon_threadsafe(self._start, request)
        if refusal:
            request.on_done(LlmError(refusal))

    def close(self) -> None:
        """Answer what is in flight with an error, stop the thread and free the GPU."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result(timeout=30)
            # Its threads hand last answers to the event loop, which therefore ends after them.
            self._llm.shutdown()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=30)
            self._loop.close()

    async def _cancel_all(self) -> None:
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _start(self, request: LlmRequest) -> None:
        task = self._loop.create_task(self._serve(request))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, request: LlmRequest) -> None:
        result: Completion | Exception
        try:
            result = await self._answer(request)
        except asyncio.CancelledError:
            result = LlmError("the LLM engine is closed")
        except (LlmError, AbandonedError) as error:
            result = error
        except Exception as error:  # the caller gets the error, the engine continues
            result = LlmError(f"decoding failed: {str(error)[-300:]}")
        with self._lock:
            self._count -= 1
        request.on_done(result)

    async def _answer(self, request: LlmRequest) -> Completion:
        left_s = (request.deadline_ns - time.monotonic_ns()) / 1e9
        deadline = self._loop.time() + left_s
        if left_s <= 0 or request.abandoned():
            raise AbandonedError(GONE)
        prompt = self._prompt_tokens(request, self.max_length)
        if request.grammar and request.grammar not in self._checked:
            # Parsing a long grammar must not hold up the answers of other requests.
            await asyncio.to_thread(self._check_grammar, request.grammar)
        output = self._llm.generate_async(prompt, self._sampling(request), streaming=True)
        gone = False
        try:
            async with asyncio.timeout_at(deadline):
                async for _ in output:
                    if request.abandoned():
                        gone = True
                        break
        except TimeoutError:
            pass
        finally:
            if not output.finished:
                output.abort()
        written = output.outputs[0]
        if gone or not (written.token_ids or output.finished):
            raise AbandonedError(GONE)
        text = self._tokenizer.decode(list(written.token_ids), skip_special_tokens=True)
        return Completion(text, _FINISH.get(written.finish_reason, "cancelled"))

    def _check_grammar(self, grammar: str) -> None:
        """Raise LlmError for a grammar that TensorRT-LLM's worker cannot use: there, it can fail a whole batch.

        That is one with a wrong form, or with a literal that the tokenizer cannot write, so decoding would get stuck.
        """
        try:
            self._grammars.from_ebnf(grammar)
        except RuntimeError as error:
            raise LlmError(f"grammar refused: {str(error)[-300:]}") from None
        for literal in literals(grammar):
            written = self._tokenizer.decode(self._tokenizer.encode(literal).ids, skip_special_tokens=False)
            if "".join(written.split()) != "".join(literal.split()):
                raise LlmError(f"grammar refused: the tokenizer writes {written!r} for its literal {literal!r}")
        if len(self._checked) >= _CHECKED_GRAMMARS:
            self._checked.clear()
        self._checked.add(grammar)

    def _sampling(self, request: LlmRequest) -> Any:
        guided = self._api.GuidedDecodingParams(grammar=request.grammar) if request.grammar else None
        # top_k 1 is greedy decoding. The text is decoded here, with the tokenizer of the prompt.
        return self._api.SamplingParams(
            max_tokens=request.max_tokens, top_k=1, guided_decoding=guided, detokenize=False
        )


def literals(grammar: str) -> set[str]:
    """The quoted strings of an EBNF grammar, without their escapes."""
    # Character classes can contain quotes, so they are matched too, and dropped.
    found = re.findall(r'"((?:[^"\\\n]|\\.)*)"|\[(?:[^\]\\\n]|\\.)*\]', grammar)
    return {json.loads(f'"{text}"') for text in found if text}
