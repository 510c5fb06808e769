"""Reaching the engines from a stage: Triton's business logic scripting (BLS)."""

import asyncio
import time

import numpy as np
import triton_python_backend_utils as pb_utils

from endcap_server.stages.base import EngineError, EngineTimeout, Tensors

_GRACE_S = 0.010
"""An engine answers what it has at the deadline; so long may that answer be under way, seconds."""


class BlsEngines:
    """The engines of the running server.

    An engine that does not answer in time is left alone: its answer is dropped when it comes, and the engine drops the
    request by itself because it knows the deadline.
    """

    async def call(self, engine: str, inputs: Tensors, deadline_ns: int, outputs: tuple[str, ...]) -> Tensors:
        """Answer the asked `outputs` of one request to `engine`; see `endcap_server.stages.base.Engines`."""
        left_s = (deadline_ns - time.monotonic_ns()) / 1e9
        if left_s <= 0:
            raise EngineTimeout(engine, "no time left to ask")
        request = pb_utils.InferenceRequest(
            model_name=engine,
            requested_output_names=list(outputs),
            inputs=[pb_utils.Tensor(name, np.ascontiguousarray(tensor)) for name, tensor in inputs.items()],
            parameters={"deadline_ns": deadline_ns},
        )
        try:
            response = await asyncio.wait_for(request.async_exec(), left_s + _GRACE_S)
        except TimeoutError:
            raise EngineTimeout(engine) from None
        except pb_utils.TritonModelException as error:
            raise EngineError(engine, str(error)) from None
        if response.has_error():
            raise EngineError(engine, response.error().message())
        return {name: pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in outputs}
