"""A stage as a Triton model: each request is a coroutine on one event loop, so waiting for an engine does not block."""

import asyncio
import threading
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import triton_python_backend_utils as pb_utils

from endcap_server.declared.errors import InvalidRequest, OverloadError
from endcap_server.declared.tensors import Tensors
from endcap_server.serving.metrics import StageMetrics
from endcap_server.serving.threads import call_threads
from endcap_server.stages.base import Stage, StageAnswer
from endcap_server.stages.status import arrived_ns, finish
from endcap_server.triton.bls import BlsEngines
from endcap_server.triton.log import log_to_triton
from endcap_server.triton.metrics import MetricsReporter
from endcap_server.triton.process import end_when_continued
from endcap_server.triton.tensors import (
    build_folder,
    complete,
    config_parameters,
    engine_names,
    input_names,
    output_tensors,
    read_inputs,
    refuse,
)


def stage_model(stage_type: type[Stage]) -> type:
    """The `TritonPythonModel` of a stage."""

    class TritonPythonModel(StageModel):
        stage_class = stage_type

    return TritonPythonModel


class StageModel:
    """Requests arrive on the stub's thread; the stage's event loop answers them in any order."""

    stage_class: type[Stage]

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the build and start the loop."""
        end_when_continued()
        log_to_triton(args["model_name"])
        parameters = config_parameters(args["model_config"])
        build = build_folder(args, parameters)
        self._inputs = input_names(args["model_config"])
        engines = BlsEngines(engine_names(parameters))
        self._stage = self.stage_class(build, parameters, engines, args["model_name"])
        self._logger = pb_utils.Logger
        self._metrics = StageMetrics(
            self._stage.name, getattr(self._stage, "cache", None), self._stage.facts_age_s, self._stage.exposure_counts
        )
        self._reporter = MetricsReporter(self._metrics, args["model_name"])
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(call_threads(), thread_name_prefix="bls"))
        self._tasks: set[asyncio.Task[None]] = set()
        """References to running tasks; the event loop keeps only weak ones."""
        self._thread = threading.Thread(target=self._loop.run_forever, name=self._stage.name, daemon=True)
        self._thread.start()

    def execute(self, requests: list[Any]) -> None:
        """Answer requests from the cache, and pass the others to the event loop, which responds later.

        Tensors are copied here, because the stub's memory is reused when this returns.
        """
        for request in requests:
            arrived = time.monotonic_ns()
            arrived_ns.set(arrived)
            inputs = read_inputs(request, self._inputs)
            requested, sender = request.requested_output_names(), request.get_response_sender()
            known = self._stage.recall(inputs)
            if known is not None:
                self._send(known, inputs, requested, sender)
            else:
                self._loop.call_soon_threadsafe(self._begin, self._serve(arrived, inputs, requested, sender))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        # Cheaper than run_coroutine_threadsafe, whose future nobody needs; the next step needs the time.
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, arrived: int, inputs: Tensors, requested: list[str], sender: Any) -> None:
        name = self._stage.name
        arrived_ns.set(arrived)
        # Triton runs all steps of an ensemble even if the client has gone. It reports that when a step starts, but not
        # to a step that is already running.
        if sender.is_cancelled():
            self._stage.abandon(inputs)
            self._metrics.ended("abandoned")
            refuse(sender, f"{name}: nobody waits for the answer any more", pb_utils.TritonError.CANCELLED)
            return
        try:
            self._stage.check_asked(inputs, requested)
            self._send(await self._stage.answer(inputs), inputs, requested, sender)
            return
        except InvalidRequest as error:
            refuse(sender, str(error), pb_utils.TritonError.INVALID_ARG)
            self._metrics.ended("invalid")
        except OverloadError as error:
            refuse(sender, str(error), pb_utils.TritonError.UNAVAILABLE)
            self._metrics.overloaded(error.code)
        except Exception as error:  # whatever went wrong, answer this request and serve the next
            self._logger.log_error(f"{name}: {type(error).__name__}: {error}")
            refuse(sender, f"{name} failed: {type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)
            self._metrics.ended("failed")
        self._stage.abandon(inputs)

    def _send(self, found: StageAnswer, inputs: Tensors, requested: list[str], sender: Any) -> None:
        outputs = output_tensors(found.tensors, requested)
        status = found.status()
        carried = self._stage.carry(status, found.document)
        outputs += output_tensors({self._stage.status_tensor: carried}, requested)
        response = pb_utils.InferenceResponse(outputs)
        finish(carried)
        complete(sender, response)
        self._metrics.answered(inputs, status)

    def finalize(self) -> None:
        """Stop the loop, and finish what the stage does beside requests."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=2)
        self._stage.close()
        self._reporter.stop()
