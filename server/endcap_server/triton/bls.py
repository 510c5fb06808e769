"""Calls of engines from a stage, through Triton's business logic scripting (BLS)."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from endcap_server.declared.errors import EngineError, EngineTimeout
from endcap_server.declared.reasons import Cause, read_marked
from endcap_server.declared.tensors import Tensors
from endcap_server.serving.threads import call_threads

_MOST_UNANSWERED = call_threads() // 2
"""Limit of unanswered calls of an engine; each occupies a thread of the loop's executor and one of the server."""
_GRACE_S = 0.010
"""An engine answers at the deadline with what it has; time for the transfer of that answer, seconds."""


class BlsEngines:
    """The engines of the running server, for one event loop.

    The answer of an engine that is late is dropped when it comes; the engine knows the deadline and drops the request,
    too. An engine that hangs gets no more requests until it has answered some.

    Args:
        names: Engine -> model to call for it; by default the model with the engine's name.
    """

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self._names = dict(names or {})
        self._unanswered: Counter[str] = Counter()

    async def call(self, engine: str, inputs: Tensors, deadline_ns: int, outputs: tuple[str, ...]) -> Tensors:
        """Return the requested `outputs` of one request to `engine`; see `endcap_server.stages.base.Engines`."""
        left_s = (deadline_ns - time.monotonic_ns()) / 1e9
        if left_s <= 0:
            raise EngineTimeout(engine, "no time left to ask", Cause.NO_TIME)
        if self._unanswered[engine] >= _MOST_UNANSWERED:
            reason = f"it hangs: {self._unanswered[engine]} earlier requests are unanswered"
            raise EngineTimeout(engine, reason, Cause.HANGS)
        request = pb_utils.InferenceRequest(
            model_name=self._names.get(engine, engine),
            requested_output_names=list(outputs),
            inputs=[pb_utils.Tensor(name, np.ascontiguousarray(tensor)) for name, tensor in inputs.items()],
            parameters={"deadline_ns": deadline_ns},
        )
        answer = asyncio.ensure_future(request.async_exec())
        await asyncio.wait([answer], timeout=left_s + _GRACE_S)
        if not answer.done():
            self._unanswered[engine] += 1
            answer.add_done_callback(lambda late: self._drop(engine, late))
            raise EngineTimeout(engine)
        try:
            response = answer.result()
        except pb_utils.TritonModelException as error:  # the server did not take the request
            raise EngineError(engine, str(error), Cause.UNAVAILABLE) from None
        if response.has_error():
            cause, message = read_marked(response.error().message())
            raise EngineError(engine, message, cause)
        return {name: pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in outputs}

    def _drop(self, engine: str, late: "asyncio.Future[Any]") -> None:
        """Count an answer that nobody waits for. Its exception is read, because asyncio would log it otherwise."""
        self._unanswered[engine] -= 1
        if not late.cancelled():
            late.exception()
