"""The cross-encoder: reads a text and a product together, and says how well they fit.

A text is tokenised once per request, product tokens come from the item store. All pairs of all requests at hand are
sorted by length into micro-batches; work that nobody waits for any more is dropped between two of them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from endcap_server.columns import Array
from endcap_server.engines.bi_encoder import load_tokenizer
from endcap_server.engines.encoder_runtime import EngineLoadError, RuntimeOptions, open_encoder
from endcap_server.margins import pairwise_margins
from endcap_server.stages.base import InvalidRequest
from endcap_server.store import ItemStore, tokenizer_digest

DEFAULT_OPTIONS = RuntimeOptions()
MAX_TEXT_TOKENS = 32
"""Longer texts are cut (special tokens not counted); the students are trained with the same limit."""
_NEVER_NS = 2**63 - 1


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


class CrossEncoder:
    """Scores pairs. Not re-entrant: one thread calls ``run``."""

    def __init__(self, folder: Path, store: ItemStore, options: RuntimeOptions = DEFAULT_OPTIONS) -> None:
        """Load ``model.xml``, ``tokenizer.json`` and ``calibration.json`` from ``folder``, a build's ``cross_encoder``.

        The tokenizer must be the one that tokenised the products of ``store``.
        """
        self.store = store
        self.calibration = _read_calibration(folder / "calibration.json")
        self._tokenizer = load_tokenizer(folder / "tokenizer.json")
        digest = tokenizer_digest(self._tokenizer)
        if digest != store.tokenizer:
            raise EngineLoadError(
                f"{folder / 'tokenizer.json'}: expected the tokenizer of the item store ({store.tokenizer}), got "
                f"another ({digest}); run endcap build store, then endcap build cross_encoder"
            )
        special = self._tokenizer.encode("").ids
        if len(special) != 2:
            raise EngineLoadError(
                f"{folder / 'tokenizer.json'}: expected a BERT-like tokenizer ([CLS] text [SEP]), got {len(special)} "
                "special tokens around a text; choose another checkpoint"
            )
        self._begin, self._separator = special
        self._tokenizer.enable_truncation(MAX_TEXT_TOKENS + len(special))
        self._runtime = open_encoder(folder, options)
        if self._runtime.outputs != 1:
            raise EngineLoadError(f"{folder}: expected one score a pair, got {self._runtime.outputs}")
        self.precision = self._runtime.options.precision

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
        pairs = self._pairs([(n, request) for n, request in enumerate(requests) if answers[n] is None])
        deadlines = np.array([request.deadline_ns for request in requests], np.int64)

        def alive() -> Array:
            late = deadlines < time.monotonic_ns()
            return ~late[pairs.request]

        logits, done = self._runtime.run(pairs.lengths, pairs.fill, alive)
        for number, request in enumerate(requests):
            if answers[number] is None:
                own = pairs.request == number
                answers[number] = self._answer(request, logits[own, 0], done[own])
        return [answer for answer in answers if answer is not None]

    def _pairs(self, requests: Sequence[tuple[int, CrossEncoderRequest]]) -> "_Pairs":
        texts = [text for _, request in requests for text in request.texts]
        encoded = self._tokenizer.encode_batch_fast(texts) if texts else []
        heads = [np.array(encoding.ids, np.int64) for encoding in encoded]
        lines = [np.nonzero(request.rows >= 0) for _, request in requests]
        starts = np.cumsum([0, *(len(request.texts) for _, request in requests)])
        empty = [np.zeros(0, np.int64)]
        return _Pairs(
            store=self.store,
            heads=heads,
            separator=self._separator,
            request=np.concatenate(
                empty + [np.full(len(line), n) for (n, _), (line, _) in zip(requests, lines, strict=True)]
            ),
            head=np.concatenate(empty + [line + start for start, (line, _) in zip(starts, lines, strict=False)]),
            product=np.concatenate(empty + [request.rows[request.rows >= 0] for _, request in requests]),
        )

    def _answer(self, request: CrossEncoderRequest, pair_logits: Array, done: Array) -> CrossEncoderResult | Exception:
        if not done.all():
            return TimeoutError(f"the deadline passed with {int((~done).sum())} of {len(done)} pairs not scored")
        valid = request.rows >= 0
        logits = np.full(request.rows.shape, np.nan, np.float32)
        logits[valid] = pair_logits
        calibrated = self.calibration.scale * logits + self.calibration.bias
        # tanh does not overflow where 1 / (1 + exp(-x)) does.
        scores = (0.5 + 0.5 * np.tanh(0.5 * calibrated)).astype(np.float32)
        return CrossEncoderResult(scores, pairwise_margins(logits, self.calibration.temperature, valid), logits)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """All pairs of a batch of requests: ``[CLS] text [SEP] product [SEP]``, token types 0 and 1."""

    store: ItemStore
    heads: list[Array]  # "[CLS] text [SEP]" of each text
    separator: int
    request: Array  # int64 [n], which request a pair is of
    head: Array  # int64 [n], which text
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
            ids[line, end] = self.separator
            types[line, middle : end + 1] = 1


def _read_calibration(path: Path) -> Calibration:
    try:
        return Calibration.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineLoadError(f"{path}: expected a built cross-encoder, found none; run endcap build") from None
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise EngineLoadError(f"{path}, {name}: {first['msg']}, got {first['input']!r}; run endcap build") from None
