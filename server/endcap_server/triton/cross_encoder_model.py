"""The `cross_encoder` engine as a Triton model."""

from pathlib import Path

from endcap_server.declared.tensors import Tensors, texts_of
from endcap_server.engines.cross_encoder import (
    CROSS_ENCODER,
    CrossEncoder,
    CrossEncoderParameters,
    CrossEncoderRequest,
    CrossEncoderResult,
)
from endcap_server.shop.store import ItemStore
from endcap_server.triton.engine_model import BatchingModel


class TritonPythonModel(BatchingModel):
    """TEXT [T], ROW [T, M] -> SCORE, MARGIN [T, M]."""

    declaration = CROSS_ENCODER

    def open(self, build: Path, settings: CrossEncoderParameters) -> CrossEncoder:
        """Load and return the engine."""
        self.max_batch_cost = settings.max_batch_pairs
        store = ItemStore.open(build)
        return CrossEncoder(build / "cross_encoder", store, settings.runtime(), settings.cache_pairs)

    def read(self, tensors: Tensors, deadline_ns: int) -> CrossEncoderRequest:
        """The request; raises InvalidRequest."""
        request = CrossEncoderRequest(texts_of(tensors["TEXT"]), tensors["ROW"], deadline_ns)
        self.engine.check(request)
        return request

    def cost(self, work: CrossEncoderRequest) -> float:
        """Pairs of the request."""
        return float(work.rows.size)

    def tensors(self, result: CrossEncoderResult) -> Tensors:
        """The outputs of one answer."""
        return {"SCORE": result.scores, "MARGIN": result.margins}
