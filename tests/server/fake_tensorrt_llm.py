"""A stand-in for TensorRT-LLM's LLM API, as its documentation and sources describe it.

It "decodes" by repeating the prompt's tokens, one every few milliseconds, on the event loop that called it.
"""

import asyncio
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar


@dataclass
class KvCacheConfig:
    max_tokens: int | None = None
    enable_block_reuse: bool = True


@dataclass
class GuidedDecodingParams:
    grammar: str | None = None


@dataclass
class SamplingParams:
    max_tokens: int = 32
    top_k: int | None = None
    guided_decoding: GuidedDecodingParams | None = None
    detokenize: bool = True


@dataclass
class CompletionOutput:
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None


class RequestOutput:
    def __init__(self, llm: "LLM", ids: list[int], sampling: SamplingParams) -> None:
        self.loop = asyncio.get_running_loop()  # without one, the real class cannot be awaited
        self._llm, self._ids, self.sampling = llm, ids, sampling
        self.outputs = [CompletionOutput()]
        self.finished = self.aborted = False
        llm.active += 1
        llm.most_active = max(llm.most_active, llm.active)

    def __aiter__(self) -> "RequestOutput":
        return self

    async def __anext__(self) -> "RequestOutput":
        if self.finished:
            raise StopAsyncIteration
        await asyncio.sleep(self._llm.token_s)
        if self._llm.fails:
            raise RuntimeError("CUDA error")
        written = self.outputs[0]
        if len(written.token_ids) == self.sampling.max_tokens:
            self._finish("length")
        elif len(written.token_ids) == len(self._ids):
            self._finish("stop")
        else:
            written.token_ids.append(self._ids[len(written.token_ids)])
        return self

    def _finish(self, reason: str) -> None:
        self.outputs[0].finish_reason, self.finished = reason, True
        self._llm.active -= 1

    def abort(self) -> None:
        assert not self.finished
        self.aborted = True
        self._llm.active -= 1


class LLM:
    opened: ClassVar[list["LLM"]] = []

    def __init__(self, model: str, **options: Any) -> None:
        unknown = set(options) - {
            "max_batch_size",
            "max_seq_len",
            "max_num_tokens",
            "guided_decoding_backend",
            "kv_cache_config",
        }
        if unknown:
            raise ValueError(f"LLM got invalid argument: {unknown}")
        self.model, self.options = model, options
        self.active = self.most_active = 0
        self.token_s, self.fails, self.closed = 0.002, False, False
        self.outputs: list[RequestOutput] = []
        LLM.opened.append(self)

    def generate_async(self, inputs: list[int], sampling_params: SamplingParams, streaming: bool) -> RequestOutput:
        assert streaming
        self.outputs.append(RequestOutput(self, inputs, sampling_params))
        return self.outputs[-1]

    def shutdown(self) -> None:
        # The real one's threads report to the event loops of unfinished requests.
        for output in self.outputs:
            output.loop.call_soon_threadsafe(lambda: None)
        self.closed = True


def modules() -> dict[str, ModuleType]:
    package, llmapi = ModuleType("tensorrt_llm"), ModuleType("tensorrt_llm.llmapi")
    for each in (KvCacheConfig, GuidedDecodingParams, SamplingParams):
        setattr(llmapi, each.__name__, each)
    package.LLM, package.llmapi = LLM, llmapi  # type: ignore[attr-defined]
    return {"tensorrt_llm": package, "tensorrt_llm.llmapi": llmapi}
