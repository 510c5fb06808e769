"""Nearest products and keywords, and lexical search: bi-encoder, FAISS indexes and tantivy index in one process."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from pydantic import Field

from endcap_server.declared.errors import InvalidRequest
from endcap_server.declared.model import GpuProfile, ModelDeclaration, tensor
from endcap_server.declared.parameters import ModelParameters
from endcap_server.declared.tensors import Tensors, texts_of
from endcap_server.engines.allowed_rows import AllowedRows, LatestAllowed
from endcap_server.engines.bi_encoder import BiEncoder
from endcap_server.engines.encoder_runtime import EngineLoadError, RuntimeOptions
from endcap_server.engines.encoders import IMPLEMENTATIONS, precision_field
from endcap_server.engines.kernel_index import KernelIndex
from endcap_server.engines.lexical import META_FILE, Boosts, LexicalIndex
from endcap_server.engines.vector_cache import VectorCache
from endcap_server.engines.vector_index import VectorIndex
from endcap_server.shop.columns import Array

DEFAULT_OPTIONS = RuntimeOptions()
DEFAULT_BOOSTS = Boosts()
VECTOR_INDEXES = ("products", "keywords")
WORDS = "words"
INDEXES = (*VECTOR_INDEXES, WORDS)
MAX_K = 2000
_NEVER_NS = 2**63 - 1


def _boost(default: float, what: str) -> Any:
    return Field(default, ge=0, le=100, description=f"weight of {what} in lexical searches")


class NearestParameters(ModelParameters):
    """Parameters of `nearest/config.pbtxt`."""

    implementation: Literal["openvino", "tensorrt", "packed"] = Field(
        "openvino", description="what runs the bi-encoder; packed: its checkpoint on endcap's own Triton kernels"
    )
    faiss_device: Literal["cpu", "gpu", "kernels"] = Field(
        "cpu", description="what searches: FAISS on cpu or gpu, or endcap's kernels on a GPU; on a GPU exactly, in fp16"
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of encoding and searching; 0: all")
    precision: str = precision_field()
    token_budget: int = Field(
        RuntimeOptions.token_budget,
        ge=16,
        le=65536,
        description="tokens of a micro-batch of the bi-encoder; tensorrt counts padding",
    )
    max_batch_requests: int = Field(64, ge=1, le=4096, description="requests that are answered in one go")
    cache_texts: int = Field(
        10_000, ge=0, le=10_000_000, description="encoded texts that are remembered (some 2 kB each)"
    )

    title: float = _boost(Boosts.title, "a word in a product's title")
    brand: float = _boost(Boosts.brand, "one in its brand")
    category: float = _boost(Boosts.category, "one in its category")
    code: float = _boost(Boosts.code, "a code with digits, as a part number,")
    description: float = _boost(Boosts.description, "a word in its description")
    phrase: float = _boost(Boosts.phrase, "the query as a phrase in its title")

    def boosts(self) -> Boosts:
        """Weights of the fields in lexical searches."""
        return Boosts(self.title, self.brand, self.category, self.code, self.description, self.phrase)

    def runtime(self) -> RuntimeOptions:
        """How the bi-encoder runs."""
        return RuntimeOptions(
            threads=self.threads,
            precision=self.precision,
            token_budget=self.token_budget,
            implementation=self.implementation,
        )


def _files(settings: NearestParameters) -> tuple[str, ...]:
    encoder = (*IMPLEMENTATIONS[settings.implementation].files, "encoder.json")
    indexes = (*(f"index/{name}.faiss" for name in VECTOR_INDEXES), f"lexical/{META_FILE}")
    return (*(f"bi_encoder/{name}" for name in encoder), *indexes)


NEAREST = ModelDeclaration(
    name="nearest",
    summary="Engine: bi-encoder, FAISS indexes of products and search keywords, lexical index of products.",
    inputs=(
        tensor("TEXT", "STRING", -1, optional=True),
        tensor("VECTOR", "FP32", -1, -1, optional=True),
        tensor("INDEX", "STRING", 1, optional=True),
        tensor("K", "INT32", 1, optional=True),
        tensor("ALLOWED", "UINT8", -1, optional=True),
    ),
    outputs=(
        tensor("ROW", "INT32", -1, -1),
        tensor("SIMILARITY", "FP32", -1, -1),
        tensor("VECTOR", "FP32", -1, -1),
        tensor("EXACT", "BOOL", -1, -1),
    ),
    parameters=NearestParameters,
    files=_files,
    devices={
        "implementation": {name: each.device for name, each in IMPLEMENTATIONS.items()},
        "faiss_device": {"cpu": "cpu", "gpu": "gpu", "kernels": "gpu"},
    },
    # TensorRT's engine is built for 16384 tokens.
    gpu=GpuProfile(
        "TensorRT and FAISS on one GPU",
        {
            "implementation": "tensorrt",
            "precision": "auto",
            "faiss_device": "gpu",
            "token_budget": 16384,
            "max_batch_requests": 256,
            "cache_texts": 200_000,
        },
    ),
)


@dataclass(frozen=True, eq=False)
class NearestRequest:
    """Search with texts or with vectors, not both."""

    texts: Sequence[str] = ()  # T
    vectors: Array | None = None  # float [T, D]; need not be of unit length
    index: str | None = "products"  # "products", "keywords", "words" (lexical search of products), or None: encode only
    k: int = 100
    allowed: Array | None = None  # uint8 [ceil(n / 8)], a bit a product, the lowest first; None: every product
    deadline_ns: int = _NEVER_NS  # on the clock of time.monotonic_ns

    @classmethod
    def read(cls, tensors: Tensors, deadline_ns: int) -> "NearestRequest":
        """The request of the engine's inputs.

        Raises:
            InvalidRequest: An input is missing.
        """
        if "INDEX" in tensors and "K" not in tensors:
            raise InvalidRequest("K", "this tensor, with INDEX", "none")
        if "TEXT" not in tensors and "VECTOR" not in tensors:
            raise InvalidRequest("TEXT", "TEXT or VECTOR", "neither")
        return cls(
            texts=texts_of(tensors["TEXT"]) if "TEXT" in tensors else (),
            vectors=tensors.get("VECTOR"),
            index=texts_of(tensors["INDEX"])[0] if "INDEX" in tensors else None,
            k=int(tensors["K"][0]) if "K" in tensors else 0,
            allowed=tensors.get("ALLOWED"),
            deadline_ns=deadline_ns,
        )


@dataclass(frozen=True, eq=False)
class NearestResult:
    """Answers one request. ``rows``, ``similarity`` and ``exact`` are [T, 0] without an index."""

    rows: Array  # int32 [T, K], nearest first, -1 where the index holds fewer than K
    similarity: Array  # float32 [T, K], cosine, for "words" the lexical score; NaN where padded
    vectors: Array  # float32 [T, D], the query vectors, of unit length; for "words" [0, D]
    exact: Array  # bool [T, K], for "words": the text names this product

    @property
    def tensors(self) -> Tensors:
        """The engine's outputs."""
        return {"ROW": self.rows, "SIMILARITY": self.similarity, "VECTOR": self.vectors, "EXACT": self.exact}


class Nearest:
    """Answers nearest-neighbour requests. Not re-entrant: one thread calls ``run``."""

    def __init__(
        self,
        build: Path,
        options: RuntimeOptions = DEFAULT_OPTIONS,
        faiss_device: str = "cpu",
        cache_texts: int = 0,
        boosts: Boosts = DEFAULT_BOOSTS,
    ) -> None:
        """Load ``bi_encoder/``, ``index/`` and ``lexical/`` of the build ``build``.

        FAISS searches on ``cpu`` or ``gpu``, endcap's own kernels with ``kernels``.

        The vectors of up to ``cache_texts`` texts are cached; ``boosts`` are for lexical searches.
        """
        if faiss_device not in ("cpu", "gpu", "kernels"):
            raise EngineLoadError(f"faiss_device: expected cpu, gpu or kernels, got {faiss_device!r}")
        self.encoder = BiEncoder(build / "bi_encoder", options)
        self._cache = VectorCache(self.encoder.encode, cache_texts)
        self._indexes = {name: VectorIndex.read(build / "index" / f"{name}.faiss") for name in VECTOR_INDEXES}
        for name, index in self._indexes.items():
            if index.dimension != self.encoder.dimension:
                raise EngineLoadError(
                    f"{build}/index/{name}.faiss: expected {self.encoder.dimension} dimensions (the bi-encoder's), got "
                    f"{index.dimension}; run endcap build store, then endcap build index"
                )
        self._words = LexicalIndex(build / "lexical", boosts)
        if len(self._words) != len(self._indexes["products"]):
            raise EngineLoadError(
                f"{build}/lexical: expected {len(self._indexes['products'])} products (those of index/), got "
                f"{len(self._words)}; run endcap build lexical, then endcap build index"
            )
        self._allowed = LatestAllowed(len(self._words))
        if faiss_device == "gpu":
            from endcap_server.engines.faiss_gpu import on_gpu

            copies = on_gpu({name: index.index for name, index in self._indexes.items()})
            self._indexes = {name: VectorIndex(index.index, copies[name]) for name, index in self._indexes.items()}
        if faiss_device == "kernels":
            self._indexes = {
                name: VectorIndex(index.index, kernels=KernelIndex(index.index))
                for name, index in self._indexes.items()
            }
        if options.threads:
            faiss.omp_set_num_threads(options.threads)

    def cache_use(self) -> tuple[int, int]:
        """Cache hits and misses (texts) since the last call."""
        return self._cache.take_use()

    def check(self, request: NearestRequest) -> None:
        """Raise InvalidRequest unless the request can be answered."""
        if request.index is not None and request.index not in INDEXES:
            raise InvalidRequest("INDEX", f"one of {', '.join(INDEXES)}", repr(request.index))
        if request.index is not None and not 1 <= request.k <= MAX_K:
            raise InvalidRequest("K", f"1..{MAX_K}", str(request.k))
        if request.allowed is not None:
            if request.index not in ("products", WORDS):
                raise InvalidRequest("ALLOWED", f"INDEX products or {WORDS} with it", repr(request.index))
            expected = (-(-len(self._indexes["products"]) // 8),)
            if request.allowed.shape != expected:
                raise InvalidRequest("ALLOWED", f"shape {list(expected)}", str(list(request.allowed.shape)))
        vectors = request.vectors
        if vectors is None:
            return
        if request.index == WORDS:
            raise InvalidRequest("VECTOR", f"TEXT with INDEX {WORDS}", "VECTOR")
        if len(request.texts):
            raise InvalidRequest("VECTOR", "TEXT or VECTOR", "both")
        if vectors.ndim != 2 or vectors.shape[1] != self.encoder.dimension:
            raise InvalidRequest("VECTOR", f"shape [T, {self.encoder.dimension}]", str(list(vectors.shape)))
        if not np.isfinite(vectors).all():
            raise InvalidRequest("VECTOR", "finite numbers", "NaN or infinity")

    def run(self, requests: Sequence[NearestRequest]) -> list[NearestResult | Exception]:
        """Answer several requests at once, in order: one encoder run, and one search for all with the same index
        and the same allowed products.

        TimeoutError for a request whose deadline has passed.
        """
        answers: list[NearestResult | Exception | None] = [None] * len(requests)
        for number, request in enumerate(requests):
            try:
                self.check(request)
            except InvalidRequest as error:
                answers[number] = error
            if request.deadline_ns < time.monotonic_ns():
                answers[number] = TimeoutError("the deadline passed before the search")
        open_ = [number for number, answer in enumerate(answers) if answer is None]
        vectors = self._vectors([requests[number] for number in open_])
        allowed = [self._allowed.of(requests[number].allowed) for number in open_]
        found: dict[int, tuple[Array, Array]] = {}
        for (name, _), places in _alike([requests[number] for number in open_], allowed).items():
            ks = [requests[open_[place]].k for place in places]
            hits = self._search(name, [vectors[place] for place in places], ks, allowed[places[0]])
            found.update(zip(places, hits, strict=True))
        for place, number in enumerate(open_):
            if requests[number].index == WORDS:
                answers[number] = self._by_words(requests[number], allowed[place])
                continue
            none = np.zeros((len(vectors[place]), 0), np.float32)
            rows, similarity = found.get(place, (none.astype(np.int32), none))
            answers[number] = NearestResult(rows, similarity, vectors[place], np.zeros(rows.shape, np.bool_))
        return [answer for answer in answers if answer is not None]

    def _by_words(self, request: NearestRequest, allowed: AllowedRows | None) -> NearestResult:
        """The products whose words fit each text; those that it names come first."""
        shape = (len(request.texts), request.k)
        rows, score = np.full(shape, -1, np.int32), np.full(shape, np.nan, np.float32)
        exact = np.zeros(shape, np.bool_)
        for line, text in enumerate(request.texts):
            found = self._words.search(text, request.k, allowed)
            count = len(found.rows)
            rows[line, :count], score[line, :count] = found.rows, found.scores
            exact[line, :count] = found.exact
        vectors = np.empty((0, self.encoder.dimension), np.float32)
        return NearestResult(rows, score, vectors, exact)

    def _vectors(self, requests: Sequence[NearestRequest]) -> list[Array]:
        encoded = self._cache.encode([text for each in requests if each.index != WORDS for text in each.texts])
        vectors, start = [], 0
        for request in requests:
            if request.index == WORDS:
                vectors.append(np.empty((0, self.encoder.dimension), np.float32))
            elif request.vectors is None:
                vectors.append(encoded[start : start + len(request.texts)])
                start += len(request.texts)
            else:
                given = np.asarray(request.vectors, np.float32)
                vectors.append(given / np.maximum(np.linalg.norm(given, axis=1, keepdims=True), 1e-12))
        return vectors

    def _search(
        self, name: str, vectors: Sequence[Array], ks: Sequence[int], allowed: AllowedRows | None
    ) -> list[tuple[Array, Array]]:
        if not sum(map(len, vectors)):
            return [(np.full((0, k), -1, np.int32), np.full((0, k), np.nan, np.float32)) for k in ks]
        joined = np.ascontiguousarray(np.concatenate(vectors), np.float32)
        rows, similarity = self._indexes[name].search(joined, max(ks), allowed)
        starts = np.cumsum([0, *map(len, vectors)])
        return [
            (rows[start:end, :k], similarity[start:end, :k])
            for start, end, k in zip(starts[:-1], starts[1:], ks, strict=True)
        ]


def _alike(
    requests: Sequence[NearestRequest], allowed: Sequence[AllowedRows | None]
) -> dict[tuple[str, int], list[int]]:
    """Positions of requests that one search can answer: same index, same allowed rows."""
    groups: dict[tuple[str, int], list[int]] = {}
    for place, (request, rows) in enumerate(zip(requests, allowed, strict=True)):
        if request.index in VECTOR_INDEXES:
            groups.setdefault((request.index, id(rows)), []).append(place)
    return groups
