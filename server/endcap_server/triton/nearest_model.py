"""The `nearest` engine as a Triton model."""

from pathlib import Path

from endcap_server.declared.errors import InvalidRequest
from endcap_server.declared.tensors import Tensors, texts_of
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
        if "INDEX" in tensors and "K" not in tensors:
            raise InvalidRequest("K", "this tensor, with INDEX", "none")
        if "TEXT" not in tensors and "VECTOR" not in tensors:
            raise InvalidRequest("TEXT", "TEXT or VECTOR", "neither")
        request = NearestRequest(
            texts=texts_of(tensors["TEXT"]) if "TEXT" in tensors else (),
            vectors=tensors.get("VECTOR"),
            index=texts_of(tensors["INDEX"])[0] if "INDEX" in tensors else None,
            k=int(tensors["K"][0]) if "K" in tensors else 0,
            allowed=tensors.get("ALLOWED"),
            deadline_ns=deadline_ns,
        )
        self.engine.check(request)
        return request

    def tensors(self, result: NearestResult) -> Tensors:
        """The outputs of one answer."""
        return {"ROW": result.rows, "SIMILARITY": result.similarity, "VECTOR": result.vectors, "EXACT": result.exact}
