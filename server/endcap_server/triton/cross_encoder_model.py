"""The `cross_encoder` engine as a Triton model."""

from pathlib import Path
from typing import Any

from endcap_server.declared.errors import InvalidRequest
from endcap_server.declared.tensors import Tensors, texts_of
from endcap_server.engines.cross_encoder import CrossEncoder, CrossEncoderParameters, CrossEncoderRequest
from endcap_server.shop.store import ItemStore
from endcap_server.triton.engine_model import BatchingModel


class TritonPythonModel(BatchingModel):
    """TEXT [T], ROW [T, M] -> SCORE, MARGIN [T, M]."""

    name = "cross_encoder"

    def open(self, build: Path, parameters: dict[str, str]) -> None:
        """Load the engine."""
        settings = CrossEncoderParameters.from_strings("cross_encoder", parameters)
        self._engine = CrossEncoder(
            build / "cross_encoder", ItemStore.open(build), settings.runtime(), settings.cache_pairs
        )
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

    def cache_use(self) -> tuple[int, int]:
        """Cache hits and misses (pairs) since the last call."""
        return self._engine.cache_use()

    def run(self, works: list[Any]) -> list[Tensors | Exception]:
        """Score all pairs of several requests."""
        return [
            result if isinstance(result, Exception) else {"SCORE": result.scores, "MARGIN": result.margins}
            for result in self._engine.run(works)
        ]
