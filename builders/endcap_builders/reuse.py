"""Reuse of what an earlier run of the step `store` computed from the same texts: vectors and token ids.

The step writes a hash of each text, and for each kind of result a *key*: a digest of what determines the result besides
the text (files and code of the encoder, the tokenizer and its limit). A result is reused if text and key are equal and
the files that hold it are those of the manifest.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import polars as pl
from endcap_server.shop.array_files import AT_ONCE
from endcap_server.shop.columns import Array, Ragged, load_array, save_array
from tokenizers import Tokenizer

from endcap_builders.build_folder import file_digest
from endcap_builders.code_digest import code_digest
from endcap_builders.manifest import read_manifest
from endcap_builders.step import BuildContext

FOLDER = "reuse"
"""Folder of the hashes and keys, in that of the step."""
_KEYS = "keys.json"
_STEP = "store"
_DROPPED = "dropped"
"""Vectors of the keywords that the step did not keep, float16 [d, D]; their hashes follow those of the kept ones."""
_FILES = {
    "products": ("vectors.npy",),
    "keywords": ("keyword_vectors.npy", f"{FOLDER}/{_DROPPED}.npy"),
    "tokens": tuple(f"tokens{part}.npy" for part in Ragged.PARTS),
}
"""Kind of result -> the files that hold it."""
_CHUNK = 256

Kind = Literal["products", "keywords"]


class Encoder(Protocol):
    """What makes the vectors of texts, such as the bi-encoder."""

    @property
    def dimension(self) -> int:
        """D of the vectors."""

    @property
    def precision(self) -> str:
        """In what numbers it computes."""

    def encode(self, texts: Sequence[str], kind: Literal["query", "document"]) -> Array:
        """Vectors of texts: float [n, D] of unit length."""


class TextEncoder:
    """Encodes and tokenises texts, and reuses what the last run of the step left in the build.

    Attributes:
        computed: Kind -> number of texts whose results are new.
    """

    def __init__(self, ctx: BuildContext, encoder: Encoder) -> None:
        """Read the keys of the last run. A forced step reuses nothing."""
        self._ctx, self._encoder = ctx, encoder
        self._folder = ctx.build / _STEP
        steps = read_manifest(ctx.build)["steps"]
        self._written = Written(ctx.build, _STEP)
        self._encoder_key = {
            "files": steps.get("bi_encoder", {}).get("files", {}),
            "code": code_digest(type(encoder)),
            "precision": encoder.precision,
        }
        self._earlier: dict[str, str] = {}
        if not ctx.forced and self._written.intact(f"{FOLDER}/{_KEYS}"):
            self._earlier = json.loads((self._folder / FOLDER / _KEYS).read_text(encoding="utf-8"))
        self._keys: dict[str, str] = {}
        self._hashes: dict[str, Array] = {}
        self.computed: dict[str, int] = {}

    def encode(self, kind: Kind, texts: pl.Series, vectors: Array) -> None:
        """Fill the vectors of products or keywords, float16 [len(texts), D]."""
        role: Literal["query", "document"] = "document" if kind == "products" else "query"
        earlier = self._earlier_texts(kind, **self._encoder_key)
        hashes = self._hashes[kind] = text_hashes(texts)
        rows = earlier.find(hashes)
        reused, new = np.flatnonzero(rows >= 0), np.flatnonzero(rows < 0)
        for start in range(0, len(reused), AT_ONCE):
            part = reused[start : start + AT_ONCE]
            vectors[part] = self._earlier_vectors(kind, rows[part])
        # Chunks of similar length need little padding.
        order = new[np.argsort(-texts.gather(new).str.len_chars().to_numpy().astype(np.int64), kind="stable")]
        for start in self._ctx.track(range(0, len(order), _CHUNK), f"vectors of {kind} (x{_CHUNK})"):
            chunk = order[start : start + _CHUNK]
            vectors[chunk] = self._encoder.encode(texts.gather(chunk).to_list(), role)
        self.computed[kind] = len(new)

    def tokenise(self, tokenizer: Tokenizer, digest: str, parts: Iterable[Sequence[str]]) -> Iterator[Ragged]:
        """Token ids of products without special tokens, in parts.

        Args:
            tokenizer: cuts texts at its limit.
            digest: of everything that determines its ids.
            parts: the texts of all products.
        """
        earlier = self._earlier_texts("tokens", digest=digest)
        column = Ragged.open(self._folder, "tokens") if len(earlier) else Ragged.of([])
        hashed = [np.empty((0, 2), np.uint64)]
        self.computed["tokens"] = 0
        for texts in parts:
            hashed.append(text_hashes(texts))
            rows = earlier.find(hashed[-1])
            lists: list[Any] = [column.row(row) if row >= 0 else None for row in rows.tolist()]
            new = np.flatnonzero(rows < 0).tolist()
            encoded = tokenizer.encode_batch_fast([texts[row] for row in new], add_special_tokens=False)
            for row, encoding in zip(new, encoded, strict=True):
                lists[row] = encoding.ids
            self.computed["tokens"] += len(new)
            yield Ragged.of(lists)
        self._hashes["tokens"] = np.concatenate(hashed)

    def write(self, kept: Array, keyword_vectors: Array) -> None:
        """Write keys and hashes of all texts for the next run.

        Args:
            kept: positions of the keywords that the step keeps, int [m].
            keyword_vectors: of all keywords.
        """
        dropped = np.setdiff1d(np.arange(len(keyword_vectors)), kept)
        self._hashes["keywords"] = self._hashes["keywords"][np.concatenate([kept, dropped])]
        folder = self._ctx.output / FOLDER
        save_array(folder, _DROPPED, keyword_vectors[dropped], np.float16)
        for kind, hashes in self._hashes.items():
            save_array(folder, kind, hashes, np.uint64)
        (folder / _KEYS).write_text(json.dumps(self._keys, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def _earlier_texts(self, kind: str, **determined_by: Any) -> "KnownTexts":
        """Texts whose results can be reused."""
        self._keys[kind] = hashlib.sha256(json.dumps(determined_by, sort_keys=True).encode()).hexdigest()[:16]
        files = (f"{FOLDER}/{kind}.npy", *_FILES[kind])
        if self._earlier.get(kind) == self._keys[kind] and self._written.intact(*files):
            return KnownTexts(load_array(self._folder / FOLDER, kind, np.uint64, 2))
        return KnownTexts(np.empty((0, 2), np.uint64))

    def _earlier_vectors(self, kind: Kind, rows: Array) -> Array:
        if kind == "products":
            return load_array(self._folder, "vectors", np.float16, 2)[rows]
        kept = load_array(self._folder, "keyword_vectors", np.float16, 2)
        dropped = load_array(self._folder / FOLDER, _DROPPED, np.float16, 2)
        vectors = np.empty((len(rows), kept.shape[1]), np.float16)
        is_kept = rows < len(kept)
        vectors[is_kept], vectors[~is_kept] = kept[rows[is_kept]], dropped[rows[~is_kept] - len(kept)]
        return vectors


class Written:
    """The files that the last run of a step left in a build, as its manifest knows them."""

    def __init__(self, build: Path, step: str) -> None:
        self._folder = build / step
        self._files = read_manifest(build)["steps"].get(step, {}).get("files", {})

    def intact(self, *names: str) -> bool:
        """Whether these files are there, and are those of the manifest."""
        paths = {name: self._folder / name for name in names}
        return all(path.is_file() and self._files.get(name) == file_digest(path) for name, path in paths.items())


def text_hashes(texts: Iterable[str]) -> Array:
    """Hash of each text: uint64 [n, 2]."""
    return content_hashes(text.encode() for text in texts)


def content_hashes(contents: Iterable[bytes]) -> Array:
    """Hash of each content: uint64 [n, 2]."""
    digests = b"".join(hashlib.blake2b(content, digest_size=16).digest() for content in contents)
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


class KnownTexts:
    """Finds texts by their hashes, uint64 [n, 2]."""

    def __init__(self, hashes: Array) -> None:
        self._order = np.argsort(hashes[:, 0], kind="stable")
        self._hashes = hashes[self._order]

    def __len__(self) -> int:
        return len(self._order)

    def find(self, hashes: Array) -> Array:
        """Row of each text, -1 if it is unknown: int64 [len(hashes)]."""
        if not len(self):
            return np.full(len(hashes), -1, np.int64)
        # Different texts with the same first half are nearly impossible; the later one would be unknown.
        slot = np.minimum(np.searchsorted(self._hashes[:, 0], hashes[:, 0]), len(self) - 1)
        return np.where((self._hashes[slot] == hashes).all(axis=1), self._order[slot], -1)
