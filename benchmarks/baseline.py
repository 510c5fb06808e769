"""The naive baseline: the same page and search by the usual libraries in one Python process, with the same weights.

It is what a competent user would write first, with the defaults of all libraries: `SentenceTransformer.encode`,
`faiss.IndexFlatIP`, Hugging Face `generate` with xgrammar's logits processor (one padded batch for the themes of a
page), `CrossEncoder.predict` on texts, and LightGBM's `Booster.predict`. Requests are served one after another.
"""

import json
import os
import tempfile
from collections.abc import Iterable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from endcap_server.declared.tensors import Tensors, bytes_tensor, texts_of
from endcap_server.engines.allowed_rows import AllowedRows
from endcap_server.shop.store import ItemStore

from benchmarks.huggingface import ordered
from benchmarks.inprocess import InProcessAnswer, InProcessShop
from benchmarks.replay import ReplayedRequest

_START_S = 300.0
_ANSWER_S = 300.0


class NaiveEngines:
    """The four engines, each a plain call of a library; calls block, and deadlines are ignored."""

    def __init__(self, build: Path) -> None:
        self.store = store = ItemStore.open(build)

        import faiss
        import torch
        from endcap_builders.pretrained.checkpoints import checkpoint_of
        from endcap_server.engines.bi_encoder import BiEncoderConfig, load_tokenizer
        from endcap_server.engines.cross_encoder import MAX_TEXT_TOKENS, Calibration
        from endcap_server.engines.lexical import LexicalIndex
        from endcap_server.engines.nearest import DEFAULT_BOOSTS
        from sentence_transformers import CrossEncoder, SentenceTransformer
        from transformers.utils import logging

        from benchmarks.huggingface import HuggingFaceLlm, HuggingFaceOrder

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        settings = BiEncoderConfig.model_validate_json((build / "bi_encoder/encoder.json").read_text(encoding="utf-8"))
        checkpoint = checkpoint_of("bi_encoder.checkpoint", built_from(build))
        self._encoder = SentenceTransformer(checkpoint, device="cpu")
        self._encoder.max_seq_length = settings.max_tokens
        self._prompt = settings.query_prompt
        self._indexes = {}
        for name, vectors in (("products", store.vectors), ("keywords", store.keyword_vectors)):
            self._indexes[name] = faiss.IndexFlatIP(store.dimension)
            self._indexes[name].add(np.asarray(vectors, np.float32))
        self._words = LexicalIndex(build / "lexical", DEFAULT_BOOSTS)
        longest = MAX_TEXT_TOKENS + store.max_product_tokens + 3
        self._cross_encoder = CrossEncoder(
            str(build / "cross_encoder"), device="cpu", max_length=longest, activation_fn=torch.nn.Identity()
        )
        calibration = (build / "cross_encoder/calibration.json").read_text(encoding="utf-8")
        self._calibration = Calibration.model_validate_json(calibration)
        # Texts that tokenise to exactly the tokens in the store.
        tokenizer = load_tokenizer(build / "store/tokenizer.json")
        self._texts = tokenizer.decode_batch([store.tokens.row(row).tolist() for row in range(len(store))])
        self._theme_llm = HuggingFaceLlm(build / "theme_llm/hf")
        self._keyword_llm = HuggingFaceOrder(build / "keyword_llm/hf")
        self._encoded: dict[str, np.ndarray] = {}

    async def call(self, engine: str, inputs: Tensors, deadline_ns: int, outputs: tuple[str, ...]) -> Tensors:
        """Answer one request to `engine`; see `endcap_server.stages.base.Engines`."""
        if engine == "nearest":
            return self._nearest(inputs)
        if engine == "cross_encoder":
            return self._score(inputs)
        if engine == "keyword_llm":
            logits = self._keyword_llm.logits(texts_of(inputs["PROMPT"]))
            return dict(zip(("ORDER", "LOGIT"), ordered(inputs["COUNT"], logits), strict=True))
        answers = self._theme_llm.generate(
            texts_of(inputs["PROMPT"]), texts_of(inputs["GRAMMAR"]), int(inputs["MAX_TOKENS"][0])
        )
        return {
            "TEXT": bytes_tensor(text for text, _ in answers),
            "FINISH": bytes_tensor(finish for _, finish in answers),
        }

    def _nearest(self, inputs: Tensors) -> Tensors:
        name = texts_of(inputs["INDEX"])[0] if "INDEX" in inputs else ""
        count, bits = int(inputs["K"][0]) if "K" in inputs else 0, inputs.get("ALLOWED")
        allowed = None if bits is None else np.unpackbits(bits, count=len(self._texts), bitorder="little").astype(bool)
        if name == "words":
            among = None if allowed is None else AllowedRows.of(allowed)
            hits = self._words.search(texts_of(inputs["TEXT"])[0], count, among)
            return {"ROW": hits.rows[None], "SIMILARITY": hits.scores[None], "EXACT": hits.exact[None]}
        vectors = self._encode(texts_of(inputs["TEXT"])) if "TEXT" in inputs else _unit(inputs["VECTOR"])
        if not name:
            return {"VECTOR": vectors}
        index = self._indexes[name]
        # Naive: rank all products, then remove those that may not be shown.
        similarity, rows = index.search(vectors, count if allowed is None else index.ntotal)
        if allowed is not None:
            shown = allowed[rows]
            order = np.argsort(~shown, axis=1, kind="stable")[:, :count]
            kept = np.take_along_axis(shown, order, axis=1)
            rows = np.where(kept, np.take_along_axis(rows, order, axis=1), -1)
            similarity = np.where(kept, np.take_along_axis(similarity, order, axis=1), np.nan)
        return {"ROW": rows.astype(np.int32), "SIMILARITY": similarity.astype(np.float32), "VECTOR": vectors}

    def _encode(self, texts: list[str]) -> np.ndarray:
        # A stage may need the vectors of an earlier stage's texts, and a search uses its text for products and for
        # keywords. Even a naive program would not encode a text twice.
        missing = [text for text in dict.fromkeys(texts) if text not in self._encoded]
        if missing:
            prompted = [self._prompt + text for text in missing]
            vectors = self._encoder.encode(prompted, normalize_embeddings=True, show_progress_bar=False)
            self._encoded |= zip(missing, np.asarray(vectors, np.float32), strict=True)
        self._encoded = {text: self._encoded[text] for text in texts}
        return np.stack(list(map(self._encoded.__getitem__, texts)))

    def _score(self, inputs: Tensors) -> Tensors:
        from endcap_server.shop.margins import pairwise_margins

        texts, rows = texts_of(inputs["TEXT"]), inputs["ROW"]
        given = rows >= 0
        pairs = [(texts[line], self._texts[rows[line, place]]) for line, place in zip(*np.nonzero(given), strict=True)]
        logits = np.full(rows.shape, np.nan, np.float32)
        logits[given] = np.asarray(self._cross_encoder.predict(pairs, show_progress_bar=False)).ravel()
        calibration = self._calibration
        score = 1 / (1 + np.exp(-(calibration.scale * logits + calibration.bias)))
        return {"SCORE": score, "MARGIN": pairwise_margins(logits, calibration.temperature)}


def built_from(build: Path) -> str:
    """The checkpoint from which a build's bi-encoder was exported; "" for the default."""
    manifest = json.loads((build / "manifest.json").read_text(encoding="utf-8"))
    return str(manifest["steps"]["bi_encoder"]["settings"].get("checkpoint") or "")


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


class Baseline:
    """The naive shop in a process of its own, so that its memory and its threads are its own.

    A context manager; one request at a time.

    Args:
        build: A finished build.
        placements: Placements of a page.
        products: Products of a placement.
    """

    def __init__(self, build: Path, placements: int, products: int):
        context = get_context("spawn")
        self._pipe, self._other = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._other, build, placements, products), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        # If this process kept the other end open, it could not see that the child process has ended.
        self._other.close()
        try:
            self._receive(_START_S)
        except RuntimeError:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    @property
    def pid(self) -> int:
        """Its process."""
        return int(self._process.pid or 0)

    def answer(self, request: ReplayedRequest) -> InProcessAnswer:
        """Answer one request; its time is measured in the process, without the pipe.

        Raises:
            RuntimeError: The baseline failed; the message is its error.
        """
        self._pipe.send(request)
        answer: InProcessAnswer = self._receive(_ANSWER_S)
        return answer

    def answers(self, requests: Iterable[ReplayedRequest]) -> list[InProcessAnswer]:
        """Answer requests one after another."""
        return [self.answer(request) for request in requests]

    def _receive(self, timeout_s: float) -> Any:
        if not self._pipe.poll(timeout_s):
            raise RuntimeError(f"the naive baseline gave no sign within {timeout_s:.0f} s")
        try:
            result = self._pipe.recv()
        except EOFError:
            raise RuntimeError("the naive baseline's process ended; its output above says why") from None
        if isinstance(result, str):
            raise RuntimeError(f"the naive baseline failed: {result}")
        return result


def _serve(pipe: Connection, build: Path, placements: int, products: int) -> None:
    """The child process: load, report readiness, answer until the pipe closes."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory(prefix="endcap-baseline-") as folder:
        os.environ["ENDCAP_RUN_DIR"] = folder
        try:
            shop = InProcessShop(build, NaiveEngines(build))
            pipe.send(("ready",))
            while True:
                request = pipe.recv()
                # In effect no deadline: the naive shop does not degrade.
                pipe.send(shop.answer(request, placements, products, budget_ms=600_000))
        except (EOFError, KeyboardInterrupt, BrokenPipeError):
            return
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}")
