"""The `cross_encoder` engine as a Triton model."""

from pathlib import Path
from typing import Any

from pydantic import Field

from endcap_server.engines.cross_encoder import CrossEncoder, CrossEncoderRequest
from endcap_server.engines.encoder_runtime import RuntimeOptions
from endcap_server.stages.base import InvalidRequest, StageParameters, Tensors, texts_of
from endcap_server.store import ItemStore
from endcap_server.triton.engine_model import BatchingModel


class CrossEncoderParameters(StageParameters):
    """Parameters of `cross_encoder/config.pbtxt`."""

    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: all")
    streams: int = Field(0, ge=0, le=64, description="micro-batches computed side by side; 0: one a thread, at most 8")
    precision: str = Field(
        "auto", pattern="^(auto|f32|bf16)$", description="bf16, f32, or auto: bf16 where the CPU has it"
    )
    token_budget: int = Field(448, ge=16, le=65536, description="tokens of a micro-batch")
    max_batch_pairs: int = Field(1024, ge=1, description="pairs of all requests that are scored in one go")


class TritonPythonModel(BatchingModel):
    """TEXT [T], ROW [T, M] -> SCORE, MARGIN [T, M]."""

    def open(self, build: Path, parameters: dict[str, str]) -> None:
        """Load the engine."""
        settings = CrossEncoderParameters.from_strings("cross_encoder", parameters)
        options = RuntimeOptions(settings.threads, settings.streams, settings.precision, settings.token_budget)
        self._engine = CrossEncoder(build / "cross_encoder", ItemStore.open(build), options)
        self.max_batch_cost = settings.max_batch_pairs

    def read(self, tensors: Tensors, deadline_ns: int) -> CrossEncoderRequest:
        """The request; raises InvalidRequest."""
        for name in ("TEXT", "ROW"):
            if name not in tensors:
                raise InvalidRequest(name, "this tensor", "none")
        request = CrossEncoderRequest(texts_of(tensors["TEXT"]), tensors["ROW"], deadline_ns)
        self._engine.check(request)
        return request

    def cost(self, work: CrossEncoderRequest) -> float:
        """Pairs of the request."""
        return float(work.rows.size)

    def run(self, works: list[Any]) -> list[Tensors | Exception]:
        """Score all pairs of several requests."""
        return [
            result if isinstance(result, Exception) else {"SCORE": result.scores, "MARGIN": result.margins}
            for result in self._engine.run(works)
        ]
