"""The `nearest` engine as a Triton model."""

from pathlib import Path

from endcap_server.declared.tensors import Tensors
from endcap_server.engines.nearest import NEAREST, Nearest, NearestParameters, NearestRequest, NearestResult
from endcap_server.triton.engine_model import BatchingModel


class TritonPythonModel(BatchingModel):
    """TEXT [T] or VECTOR [T, D], INDEX [1], K [1], ALLOWED [ceil(n / 8)] -> VECTOR [T, D], ROW, SIMILARITY, EXACT.

    Without INDEX, texts are only encoded.
    """

    declaration = NEAREST

    def open(self, build: Path, settings: NearestParameters) -> Nearest:
        """Load and return the engine."""
        self.max_batch_cost = settings.max_batch_requests
        return Nearest(build, settings.runtime(), settings.faiss_device, settings.cache_texts, settings.boosts())

    def read(self, tensors: Tensors, deadline_ns: int) -> NearestRequest:
        """The request; raises InvalidRequest."""
        request = NearestRequest.read(tensors, deadline_ns)
        self.engine.check(request)
        return request

    def tensors(self, result: NearestResult) -> Tensors:
        """The outputs of one answer."""
        return result.tensors
