"""What is known about endcap's own models without opening them: the one place where lint's knowledge of them stands.

The tensors are those that the models' code reads and writes; a configuration may leave the size of a dimension open
that the code fixes, but not the other way round. A model under a versioned name (`rerank__v2`) is the same code.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from endcap_server.declared.parameters import StageParameters
from endcap_server.engines.parameters import PARAMETERS as ENGINE_PARAMETERS
from endcap_server.shop import kinds
from endcap_server.stages.base import Stage
from endcap_server.stages.fusion import Fusion
from endcap_server.stages.keywords import Keywords
from endcap_server.stages.rerank import Rerank
from endcap_server.stages.retrieval import Retrieval
from endcap_server.stages.theme import Theme

VERSION_MARK = "__"
"""Stands between a model's name and its version in the names of staged models."""

BACKENDS = ("python",)
"""Backends that the launcher gives the server."""

NEWER_FIELDS: dict[str, str] = {
    "model_metrics": "25.02",
    "ensemble_scheduling.max_inflight_requests": "25.11",
}
"""Fields of the protobuf schema at hand that Triton 24.10, which the CPU profile runs on, refuses; their release."""

MAX_INSTANCES = 64
"""Each instance is a process with a model of its own."""

STAGES: dict[str, type[Stage]] = {stage.name: stage for stage in (Retrieval, Theme, Keywords, Rerank, Fusion)}
PARAMETERS: dict[str, type[StageParameters]] = {
    **{name: stage.parameters for name, stage in STAGES.items()},
    **ENGINE_PARAMETERS,
}
"""Of every stage and engine, by model name."""

ADAPTER_PARAMETERS = {
    "build": "path of the build, relative to the model's folder (default ../..)",
    "engines": "JSON object, engine -> model that a stage calls for it (default: the engine's own name); "
    "`endcap apply` sets it",
}
"""Parameters that every stage and engine has besides its own."""


@dataclass(frozen=True)
class KnownTensor:
    """A tensor that a model's code reads or writes."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class KnownModel:
    """One of endcap's models."""

    inputs: tuple[KnownTensor, ...]
    outputs: tuple[KnownTensor, ...]
    public: bool = False
    """An ensemble whose tensors are a contract with callers: nothing of them may change."""
    calls: tuple[str, ...] = ()
    """Engines that it reaches through BLS."""
    uncacheable: str = ""
    """Why its answers must not come from the response cache; empty if they may."""
    needs: Callable[[Mapping[str, str]], tuple[str, ...]] = field(default=lambda parameters: ())
    """Files of the build that it opens on loading, given its parameters (all of them, defaults filled in)."""
    uses: tuple[str, ...] = ()
    """Files that it opens if there are any, and does with less without a word; a build that made them has them."""


_TENSOR = re.compile(r"(\w+)(\??) (\w+) \[([-\d, ]+)\]")


def _tensors(text: str) -> tuple[KnownTensor, ...]:
    """Read "NAME? TYPE [dims]" (the ? is for optional), separated by semicolons."""
    found = []
    for part in text.split(";"):
        match = _TENSOR.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"declared tensor {part.strip()!r}: expected NAME? TYPE [dims]")
        name, optional, data_type, dims = match.groups()
        found.append(KnownTensor(name, data_type, tuple(int(each) for each in dims.split(",")), bool(optional)))
    return tuple(found)


_TEXT_COLUMN = ("bytes", "offsets", "hashes", "order")
STORE_FILES = (
    "store/store.json",
    *(
        f"store/{column}.{part}.npy"
        for column in ("product_ids", "titles", "brands", "categories", "caption_tokens", "keywords")
        for part in _TEXT_COLUMN
    ),
    *(f"store/{column}.{part}.npy" for column in ("tokens", "captions") for part in ("values", "offsets")),
    *(
        f"store/{column}.npy"
        for column in (
            *("vectors", "brand", "category", "price", "in_stock", "popularity"),
            *("keyword_vectors", "keyword_counts"),
        )
    ),
    "index/keyword_products.npy",
    "index/keyword_category.npy",
)
"""What every stage, and the cross-encoder, maps."""


def _encoder(folder: str, implementation: str) -> tuple[str, ...]:
    files = ("model.plan",) if implementation == "tensorrt" else ("model.xml", "model.bin")
    return tuple(f"{folder}/{name}" for name in (*files, "tokenizer.json"))


def _nearest_files(parameters: Mapping[str, str]) -> tuple[str, ...]:
    indexes = ("index/products.faiss", "index/keywords.faiss")
    return (*_encoder("bi_encoder", parameters["implementation"]), "bi_encoder/encoder.json", *indexes)


def _cross_encoder_files(parameters: Mapping[str, str]) -> tuple[str, ...]:
    own = (*_encoder("cross_encoder", parameters["implementation"]), "cross_encoder/calibration.json")
    return (*own, *STORE_FILES)


def _llm_files(folder: str) -> Callable[[Mapping[str, str]], tuple[str, ...]]:
    def files(parameters: Mapping[str, str]) -> tuple[str, ...]:
        if parameters["implementation"] == "tensorrt_llm":
            return (f"{folder}/trtllm/config.json", f"{folder}/trtllm/tokenizer.json")
        parts = ("model", "tokenizer", "detokenizer")
        exported = (f"{folder}/openvino_{part}.{kind}" for part in parts for kind in ("xml", "bin"))
        return (*exported, f"{folder}/tokenizer.json", f"{folder}/config.json")

    return files


def _store_files(parameters: Mapping[str, str]) -> tuple[str, ...]:
    return STORE_FILES


_REQUEST = "HISTORY? STRING [-1]; RULES? STRING [1]; PRODUCTS? INT32 [1]; BUDGET_MS? INT32 [1]"
_SCORED = "ROW INT32 [-1, -1]; MEASURED FP32 [-1, -1, 3]"
_RANKED = "PRODUCT_ID STRING [-1, -1]; SCORE FP32 [-1, -1]; SIGNALS FP32 [-1, -1, -1]; STATUS STRING [1]"
_WRITTEN = "prompts that a deadline cut short come back empty, and the deadline is no part of the cache key"
_ASKED = "its callers ask for different outputs of equal inputs, and the cache keeps those of whoever came first"

MODELS: dict[str, KnownModel] = {
    "storefront": KnownModel(
        _tensors(f"{_REQUEST}; SESSION? STRING [-1]; PLACEMENTS? INT32 [1]"),
        _tensors(f"THEME STRING [-1]; KEYWORDS STRING [-1, -1]; {_RANKED}"),
        public=True,
    ),
    "search": KnownModel(
        _tensors(f"QUERY? STRING [1]; {_REQUEST}"),
        _tensors("PRODUCT_ID STRING [-1]; SCORE FP32 [-1]; SIGNALS FP32 [-1, -1]; STATUS STRING [1]"),
        public=True,
    ),
    "retrieval": KnownModel(
        _tensors(f"{_REQUEST}; SESSION? STRING [-1]; PLACEMENTS? INT32 [1]; QUERY? STRING [1]"),
        _tensors(
            "CANDIDATE_ROW INT32 [-1]; CANDIDATE_SIMILARITY FP32 [-1]; PAGE UINT8 [-1]; THEME_REQUEST UINT8 [-1]; "
            "QUERY_THEMES UINT8 [-1]; QUERY_KEYWORDS UINT8 [-1]"
        ),
        calls=("nearest",),
        needs=_store_files,
        uses=kinds.FILES,
    ),
    "theme": KnownModel(
        _tensors("THEME_REQUEST UINT8 [-1]"),
        _tensors("THEMES UINT8 [-1]; THEME_STATUS UINT8 [-1]"),
        calls=("theme_llm", "nearest"),
        needs=_store_files,
        uses=("theme_llm/title_words.txt",),
    ),
    "keywords": KnownModel(
        _tensors("THEMES UINT8 [-1]"),
        _tensors("KEYWORDS UINT8 [-1]"),
        calls=("nearest", "keyword_llm"),
        needs=_store_files,
    ),
    "rerank": KnownModel(
        _tensors(
            "THEMES UINT8 [-1]; KEYWORDS UINT8 [-1]; CANDIDATE_ROW INT32 [-1]; CANDIDATE_SIMILARITY? FP32 [-1]; "
            "PAGE UINT8 [-1]"
        ),
        _tensors(f"{_SCORED}; RERANK_STATUS UINT8 [-1]"),
        calls=("nearest", "cross_encoder"),
        needs=_store_files,
    ),
    "fusion": KnownModel(
        _tensors(
            f"THEMES UINT8 [-1]; KEYWORDS? UINT8 [-1]; {_SCORED}; PAGE UINT8 [-1]; THEME_STATUS? UINT8 [-1]; "
            "RERANK_STATUS UINT8 [-1]"
        ),
        _tensors(
            f"THEME_OUT STRING [-1]; KEYWORDS_OUT STRING [-1, -1]; {_RANKED}; FIRST_PRODUCT_ID STRING [-1]; "
            "FIRST_SCORE FP32 [-1]; FIRST_SIGNALS FP32 [-1, -1]"
        ),
        needs=_store_files,
        uses=("ranker/ranker.json", "ranker/model.txt"),
    ),
    "nearest": KnownModel(
        _tensors("TEXT? STRING [-1]; VECTOR? FP32 [-1, -1]; INDEX? STRING [1]; K? INT32 [1]; ALLOWED? UINT8 [-1]"),
        _tensors("ROW INT32 [-1, -1]; SIMILARITY FP32 [-1, -1]; VECTOR FP32 [-1, -1]"),
        uncacheable=_ASKED,
        needs=_nearest_files,
    ),
    "cross_encoder": KnownModel(
        _tensors("TEXT STRING [-1]; ROW INT32 [-1, -1]"),
        _tensors("SCORE FP32 [-1, -1]; MARGIN FP32 [-1, -1]"),
        needs=_cross_encoder_files,
    ),
    **{
        name: KnownModel(
            _tensors("PROMPT STRING [-1]; GRAMMAR STRING [-1]; MAX_TOKENS INT32 [1]"),
            _tensors("TEXT STRING [-1]; FINISH STRING [-1]"),
            uncacheable=_WRITTEN,
            needs=_llm_files(name),
        )
        for name in ("theme_llm", "keyword_llm")
    },
}
"""The models that endcap brings, by name."""

ENSEMBLES = tuple(name for name, model in MODELS.items() if model.public)
"""What callers ask."""

CLOCK_TENSORS = ("PAGE",)
"""Tensors that hold a moment of this request: no two requests have the same."""

GPU_SETTINGS = {"implementation": ("tensorrt", "tensorrt_llm"), "faiss_device": ("gpu",)}
"""Values of an engine's parameters that need a GPU."""


def base_name(model: str) -> str:
    """The name under which a model is declared here: without its version."""
    return model.partition(VERSION_MARK)[0]


def known_model(model: str) -> KnownModel | None:
    """What is declared about a model, if it is one of endcap's."""
    return MODELS.get(base_name(model))
