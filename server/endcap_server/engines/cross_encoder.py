"""The cross-encoder: scores how well a product fits a text.

A text is tokenised once per request; product tokens come from the item store. The pairs of all waiting requests are
sorted by length into micro-batches. Before each micro-batch, pairs of requests that nobody waits for are dropped. The
scores of pairs are cached.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tokenizers import Tokenizer

from endcap_server.declared.errors import InvalidRequest
from endcap_server.declared.model import GpuProfile, ModelDeclaration, tensor
from endcap_server.declared.parameters import ModelParameters
from endcap_server.engines.bi_encoder import load_tokenizer
from endcap_server.engines.encoder_runtime import EngineLoadError, RuntimeOptions
from endcap_server.engines.encoders import IMPLEMENTATIONS, open_encoder, precision_field
from endcap_server.engines.packed_runtime import PackedRuntime
from endcap_server.engines.score_cache import ScoreCache
from endcap_server.shop.columns import Array
from endcap_server.shop.margins import pairwise_margins
from endcap_server.shop.store import STORE_FILES, ItemStore, tokenizer_digest

DEFAULT_OPTIONS = RuntimeOptions()
MAX_TEXT_TOKENS = 32
"""Longer texts are cut (special tokens not counted); the students are trained with the same limit."""
_NEVER_NS = 2**63 - 1


class CrossEncoderParameters(ModelParameters):
    """Parameters of `cross_encoder/config.pbtxt`."""

    implementation: Literal["openvino", "tensorrt", "packed"] = Field(
        "openvino", description="what runs the cross-encoder; packed: its checkpoint on endcap's own Triton kernels"
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: all")
    streams: int = Field(0, ge=0, le=64, description="micro-batches computed side by side; 0: one a thread, at most 8")
    precision: str = precision_field()
    token_budget: int = Field(
        RuntimeOptions.token_budget, ge=16, le=65536, description="tokens of a micro-batch; tensorrt counts padding"
    )
    max_batch_pairs: int = Field(1024, ge=1, description="pairs of all requests that are scored in one go")
    cache_pairs: int = Field(
        200_000, ge=0, le=10_000_000, description="scored pairs that are remembered (some 100 bytes each)"
    )

    def runtime(self) -> RuntimeOptions:
        """How the cross-encoder runs."""
        return RuntimeOptions(self.threads, self.streams, self.precision, self.token_budget, self.implementation)


def _files(settings: CrossEncoderParameters) -> tuple[str, ...]:
    own = (*IMPLEMENTATIONS[settings.implementation].files, "calibration.json")
    return (*(f"cross_encoder/{name}" for name in own), *STORE_FILES)


CROSS_ENCODER = ModelDeclaration(
    name="cross_encoder",
    summary="Engine: cross-encoder and margins; hidden states never leave its process.",
    inputs=(tensor("TEXT", "STRING", -1), tensor("ROW", "INT32", -1, -1)),
    outputs=(tensor("SCORE", "FP32", -1, -1), tensor("MARGIN", "FP32", -1, -1)),
    parameters=CrossEncoderParameters,
    files=_files,
    devices={"implementation": {name: each.device for name, each in IMPLEMENTATIONS.items()}},
    # The TensorRT engine is built for 16384 tokens.
    gpu=GpuProfile(
        "TensorRT on one GPU",
        {
            "implementation": "tensorrt",
            "precision": "auto",
            "token_budget": 16384,
            "max_batch_pairs": 8192,
            "cache_pairs": 5_000_000,
        },
    ),
)


class Calibration(BaseModel):
    """``calibration.json``: from a logit to a probability-like relevance."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    scale: float = Field(1.0, gt=0, description="SCORE = sigmoid(scale * logit + bias)")
    bias: float = 0.0
    temperature: float = Field(1.0, gt=0, description="logit difference that wins 73 % of comparisons, for MARGIN")


@dataclass(frozen=True, eq=False)
class CrossEncoderRequest:
    """Score each text against its products."""

    texts: Sequence[str]  # T
    rows: Array  # int [T, M], product rows of the item store, -1 padded
    deadline_ns: int = _NEVER_NS  # on the clock of time.monotonic_ns


@dataclass(frozen=True, eq=False)
class CrossEncoderResult:
    """Answers one request; NaN where padded."""

    scores: Array  # float32 [T, M], calibrated relevance 0..1
    margins: Array  # float32 [T, M], expected share of wins against the text's other products
    logits: Array  # float32 [T, M]


@dataclass(frozen=True)
class PairTokens:
    """Special tokens of a pair: of a BERT ``[CLS] text [SEP] product [SEP]``, of MPNet and XLM-R ``<s> text </s></s>
    product </s>``.
    """

    around_text: int
    """Number of those that the tokenizer puts around a text alone."""
    more: tuple[int, ...]
    """Those between text and product that it does not put behind a text alone."""
    end: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, path: Path) -> "PairTokens":
        """How the tokenizer of the file ``path`` joins two texts.

        Raises:
            EngineLoadError: not by a token before, tokens between, and a token behind.
        """
        alone, pair = tokenizer.encode("").ids, tokenizer.encode("", "").ids
        if len(alone) != 2 or len(pair) < 3 or pair[: len(alone)] != alone:
            raise EngineLoadError(
                f"{path}: expected a BERT-like tokenizer ([CLS] text [SEP], or <s> text </s>), got {len(alone)} "
                f"special tokens around a text and {len(pair)} around two; choose another checkpoint"
            )
        return cls(len(alone), tuple(pair[len(alone) : -1]), pair[-1])


class CrossEncoder:
    """Scores pairs. Not re-entrant: one thread calls ``run``."""

    def __init__(
        self, folder: Path, store: ItemStore, options: RuntimeOptions = DEFAULT_OPTIONS, cache_pairs: int = 0
    ) -> None:
        """Load model, ``tokenizer.json`` and ``calibration.json`` from ``folder``, a build's ``cross_encoder``.

        The tokenizer must be the one that tokenised the products of ``store``. Scores of up to ``cache_pairs`` pairs
        are cached.
        """
        self._cache = ScoreCache(cache_pairs)
        self.store = store
        self.calibration = _read_calibration(folder / "calibration.json")
        self._tokenizer = load_tokenizer(folder / "tokenizer.json")
        digest = tokenizer_digest(self._tokenizer)
        if digest != store.tokenizer:
            raise EngineLoadError(
                f"{folder / 'tokenizer.json'}: expected the tokenizer of the item store ({store.tokenizer}), got "
                f"another ({digest}); run endcap build store, then endcap build cross_encoder"
            )
        self._special = PairTokens.of(self._tokenizer, folder / "tokenizer.json")
        self._tokenizer.enable_truncation(MAX_TEXT_TOKENS + self._special.around_text)
        if options.implementation == "packed":
            self._packed: PackedRuntime | None = PackedRuntime(folder, options, store.tokens, self._special.end)
            self.precision = self._packed.options.precision
            return
        self._packed = None
        self._runtime = open_encoder(folder, options)
        if self._runtime.outputs != 1:
            raise EngineLoadError(f"{folder}: expected one score a pair, got {self._runtime.outputs}")
        self.precision = self._runtime.options.precision

    def cache_use(self) -> tuple[int, int]:
        """Cache hits and misses (pairs) since the last call."""
        return self._cache.take_use()

    def check(self, request: CrossEncoderRequest) -> None:
        """Raise InvalidRequest unless shapes fit and every row is a product of the store or -1."""
        rows = request.rows
        if rows.ndim != 2 or len(rows) != len(request.texts):
            raise InvalidRequest("ROW", f"shape [{len(request.texts)}, M], one row a text", f"{list(rows.shape)}")
        if not np.issubdtype(rows.dtype, np.integer):
            raise InvalidRequest("ROW", "integers", str(rows.dtype))
        if rows.size and not -1 <= int(rows.min()) <= int(rows.max()) < len(self.store):
            wrong = rows[(rows < -1) | (rows >= len(self.store))][0]
            raise InvalidRequest("ROW", f"product rows 0..{len(self.store) - 1}, or -1", str(wrong))

    def run(self, requests: Sequence[CrossEncoderRequest]) -> list[CrossEncoderResult | Exception]:
        """Answer several requests at once, in order; TimeoutError for one whose deadline passed before it was done."""
        answers: list[CrossEncoderResult | Exception | None] = [None] * len(requests)
        for number, request in enumerate(requests):
            try:
                self.check(request)
            except InvalidRequest as error:
                answers[number] = error
        asked = [(n, request) for n, request in enumerate(requests) if answers[n] is None]
        logits = {n: self._cache.look_up(request.texts, request.rows) for n, request in asked}
        pairs = self._pairs([(n, request, (request.rows >= 0) & np.isnan(logits[n])) for n, request in asked])
        deadlines = np.array([request.deadline_ns for request in requests], np.int64)

        def alive() -> Array:
            late = deadlines < time.monotonic_ns()
            return ~late[pairs.request]

        if self._packed is not None:
            scored, done = self._packed.run(pairs.heads, pairs.head, pairs.product, alive)
        else:
            scored, done = self._runtime.run(pairs.lengths, pairs.fill, alive)
        for number, request in asked:
            own = pairs.request == number
            logits[number][pairs.line[own], pairs.column[own]] = np.where(done[own], scored[own, 0], np.nan)
            # Cache what was scored before the deadline: the caller may try again.
            self._remember(request, logits[number])
            late = int((~done[own]).sum())
            answers[number] = _late(request, late) if late else self._answer(request, logits[number])
        return [answer for answer in answers if answer is not None]

    def _pairs(self, asked: Sequence[tuple[int, CrossEncoderRequest, Array]]) -> "_Pairs":
        """The pairs to score: for each request its number, the request, and which of its pairs, bool [T, M]."""
        texts = [text for _, request, _ in asked for text in request.texts]
        encoded = self._tokenizer.encode_batch_fast(texts) if texts else []
        starts = np.cumsum([0, *(len(request.texts) for _, request, _ in asked)])
        places = [np.nonzero(wanted) for _, _, wanted in asked]

        def joined(parts: Iterable[Array]) -> Array:
            return np.concatenate([np.zeros(0, np.int64), *parts])

        return _Pairs(
            store=self.store,
            heads=[np.array([*encoding.ids, *self._special.more], np.int64) for encoding in encoded],
            end=self._special.end,
            request=joined(np.full(len(lines), n) for (n, _, _), (lines, _) in zip(asked, places, strict=True)),
            line=joined(lines for lines, _ in places),
            column=joined(columns for _, columns in places),
            head=joined(lines + start for start, (lines, _) in zip(starts, places, strict=False)),
            product=joined(request.rows[wanted] for _, request, wanted in asked),
        )

    def _remember(self, request: CrossEncoderRequest, logits: Array) -> None:
        for text, rows, values in zip(request.texts, request.rows, logits, strict=True):
            known = ~np.isnan(values)
            self._cache.keep(text, rows[known], values[known])

    def _answer(self, request: CrossEncoderRequest, logits: Array) -> CrossEncoderResult:
        valid = request.rows >= 0
        calibrated = self.calibration.scale * logits + self.calibration.bias
        # tanh does not overflow where 1 / (1 + exp(-x)) does.
        scores = (0.5 + 0.5 * np.tanh(0.5 * calibrated)).astype(np.float32)
        return CrossEncoderResult(scores, pairwise_margins(logits, self.calibration.temperature, valid), logits)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """All pairs of a batch of requests, as the tokenizer joins two texts, with token types 0 and 1."""

    store: ItemStore
    heads: list[Array]  # each text with the special tokens around it
    end: int  # the special token behind a product
    request: Array  # int64 [n], which request a pair is of
    line: Array  # int64 [n], which of its texts
    column: Array  # int64 [n], which of that text's products
    head: Array  # int64 [n], which of all texts
    product: Array  # int64 [n], which product

    @property
    def lengths(self) -> Array:
        heads = np.array([len(head) for head in self.heads], np.int64)
        return heads[self.head] + self.store.tokens.lengths(self.product) + 1

    def fill(self, rows: Array, ids: Array, types: Array) -> None:
        for line, row in enumerate(rows):
            head, product = self.heads[self.head[row]], self.store.tokens.row(self.product[row])
            middle = len(head)
            end = middle + len(product)
            ids[line, :middle] = head
            ids[line, middle:end] = product
            ids[line, end] = self.end
            types[line, middle : end + 1] = 1


def _late(request: CrossEncoderRequest, missing: int) -> TimeoutError:
    pairs = int((request.rows >= 0).sum())
    return TimeoutError(f"the deadline passed with {missing} of {pairs} pairs not scored")


def _read_calibration(path: Path) -> Calibration:
    try:
        return Calibration.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineLoadError(f"{path}: expected a built cross-encoder, found none; run endcap build") from None
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise EngineLoadError(f"{path}, {name}: {first['msg']}, got {first['input']!r}; run endcap build") from None
