"""Scores of known texts and their products by the cross-encoder that serves.

The texts are the keywords and the names of kinds. Scores of texts and products that have not changed since the last run
of the step are carried over if the model is the same.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from endcap_server.engines.cross_encoder import Calibration, CrossEncoder, CrossEncoderRequest
from endcap_server.shop.array_files import Array, load_array, save_array
from endcap_server.shop.gates import is_installed
from endcap_server.shop.kinds import Kinds
from endcap_server.shop.postings import COLUMNS, FOLDER, Postings, PostingsMeta
from endcap_server.shop.store import ItemStore

from endcap_builders.code_digest import code_digest
from endcap_builders.manifest import read_manifest
from endcap_builders.relevance.labelling import label_folder, write_whole
from endcap_builders.relevance.settings import PostingsSettings
from endcap_builders.reuse import FOLDER as REUSE
from endcap_builders.reuse import KnownTexts, Written, content_hashes, text_hashes
from endcap_builders.step import BuildContext

_MODEL = "cross_encoder"
_KEY = "key.json"
_HASHES = ("keywords", "products", "kinds")
_BLOCK = 1024
"""Keywords whose pairs are looked up at once."""
_SAMPLED_PRODUCTS = 20_000
_NEAR = 0.3
"""Least cosine of the pairs to which estimates are fitted; candidates of a page are hardly ever farther away."""


@dataclass
class ServedCrossEncoder:
    """Scores pairs as the server does; loaded at the first use in each process.

    Attributes:
        build: build with the cross-encoder and the item store.
        model: the step of the model.
    """

    build: Path
    model: str = _MODEL
    _opened: CrossEncoder | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def scores(self, queries: list[str], products: Array) -> Array:
        """Calibrated logit of each (query, product row), float32 [n]."""
        if self._opened is None:
            self._opened = CrossEncoder(self.build / _MODEL, ItemStore.open(self.build, linked=False))
        place = {text: line for line, text in enumerate(dict.fromkeys(queries))}
        line = np.array([place[text] for text in queries], np.int64)
        order = np.argsort(line, kind="stable")
        starts = np.searchsorted(line[order], np.arange(len(place)))
        column = np.empty(len(line), np.int64)
        column[order] = np.arange(len(line)) - starts[line[order]]
        rows = np.full((len(place), int(column.max(initial=-1)) + 1), -1, np.int32)
        rows[line, column] = products
        answer = self._opened.run([CrossEncoderRequest(list(place), rows)])[0]
        if isinstance(answer, Exception):
            raise answer
        calibration = self._opened.calibration
        scores: Array = calibration.scale * answer.logits[line, column] + calibration.bias
        return scores


@dataclass(frozen=True)
class _Pairs:
    """The pairs of a run.

    Attributes:
        rows: int32 [m, K], products of the first m keywords, -1 padded.
        of_kinds: int32 [p], products that are scored with the names of their kinds, by kind.
    """

    rows: Array
    of_kinds: Array

    def __len__(self) -> int:
        return len(self.of_kinds) + int((self.rows >= 0).sum())


def build_postings(ctx: BuildContext, settings: PostingsSettings) -> dict[str, Any]:
    """Write the postings; nothing if the gates leave out the cross-encoder."""
    if not is_installed(ctx.build, _MODEL):
        ctx.log("no postings, because the cross-encoder is not installed")
        return {"pairs": 0, "computed": 0}
    store = ItemStore.open(ctx.build)
    kinds = Kinds.open(ctx.build, store)
    pairs = _chosen(store, kinds, settings)
    hashes = {
        "keywords": text_hashes(store.keywords[row] for row in range(len(pairs.rows))),
        "products": content_hashes(store.tokens.row(row).tobytes() for row in range(len(store))),
        "kinds": text_hashes(kinds.labels(np.arange(len(store)))),
    }
    key = _key(ctx, store)
    logits, kind_logits = _carried_over(ctx, pairs, hashes, key, len(store))
    new_kinds = pairs.of_kinds[np.isnan(kind_logits[pairs.of_kinds])]
    lines, columns = np.nonzero((pairs.rows >= 0) & np.isnan(logits))
    names = kinds.labels(new_kinds)
    sample = _unlisted(store, pairs.rows, settings.estimate_pairs, np.random.default_rng(ctx.seed))
    texts = [*names, *(store.keywords[line] for line in [*lines.tolist(), *sample[0].tolist()])]
    scores = _scored(ctx, settings, texts, np.concatenate([new_kinds, pairs.rows[lines, columns], sample[1]]))
    kind_logits[new_kinds], logits[lines, columns], sampled = np.split(scores, np.cumsum([len(names), len(lines)]))
    Postings(pairs.rows, logits, kind_logits, _meta(ctx, sample[2], sampled)).write(ctx.output)
    for name, values in hashes.items():
        save_array(ctx.output / REUSE, name, values, np.uint64)
    (ctx.output / REUSE / _KEY).write_text(json.dumps(key) + "\n", encoding="utf-8")
    figures = {"keywords": len(pairs.rows), "pairs": len(pairs), "computed": len(names) + len(lines)}
    ctx.log("{pairs:,} pairs, {computed:,} of them new, {keywords:,} keywords".format(**figures))
    return figures


def _chosen(store: ItemStore, kinds: Kinds, settings: PostingsSettings) -> _Pairs:
    """The most popular products of each kind, and the best products of the most searched keywords."""
    order = np.lexsort((-store.popularity, kinds.of_product))
    kind = kinds.of_product[order]
    place = np.arange(len(order)) - np.searchsorted(kind, kind)
    of_kinds = order[(kind >= 0) & (place < settings.kind_products)][: settings.most_pairs].astype(np.int32)
    rows = np.asarray(store.keyword_products[:, : settings.products])
    total = np.cumsum((rows >= 0).sum(axis=1))
    keywords = int(np.searchsorted(total, settings.most_pairs - len(of_kinds), side="right"))
    return _Pairs(rows[:keywords], of_kinds)


def _key(ctx: BuildContext, store: ItemStore) -> dict[str, Any]:
    """What determines a score besides the two texts."""
    files = read_manifest(ctx.build)["steps"].get(_MODEL, {}).get("files", {})
    served = {name: digest for name, digest in files.items() if name != "gates.json"}
    return {"files": served, "code": code_digest(CrossEncoder), "tokenizer": store.tokenizer}


def _carried_over(
    ctx: BuildContext, pairs: _Pairs, hashes: dict[str, Array], key: dict[str, Any], products: int
) -> tuple[Array, Array]:
    """Logits of the pairs that the last run of the step has scored: float16 [m, K] and [n]; NaN for the others."""
    logits, kind_logits = np.full(pairs.rows.shape, np.nan, np.float16), np.full(products, np.nan, np.float16)
    folder = ctx.build / FOLDER
    files = (f"{REUSE}/{_KEY}", *(f"{REUSE}/{name}.npy" for name in _HASHES), *(f"{name}.npy" for name in COLUMNS))
    if ctx.forced or not Written(ctx.build, FOLDER).intact(*files):
        return logits, kind_logits
    if json.loads((folder / REUSE / _KEY).read_text(encoding="utf-8")) != key:
        return logits, kind_logits
    before = {name: load_array(folder / REUSE, name, np.uint64, 2) for name in _HASHES}
    rows, old_logits, old_kind_logits = (load_array(folder, name, *of) for name, of in COLUMNS.items())
    keyword = KnownTexts(before["keywords"]).find(hashes["keywords"])
    product = KnownTexts(before["products"]).find(hashes["products"])
    for start in range(0, len(keyword), _BLOCK):
        part = np.arange(start, min(start + _BLOCK, len(keyword)))
        part = part[keyword[part] >= 0]
        wanted = np.where(pairs.rows[part] >= 0, product[pairs.rows[part]], -1)
        same = (wanted[:, :, None] == rows[keyword[part]][:, None, :]) & (wanted >= 0)[:, :, None]
        if same.size:
            found = np.take_along_axis(old_logits[keyword[part]], same.argmax(axis=2), axis=1)
            logits[part] = np.where(same.any(axis=2), found, np.float16(np.nan))
    own = pairs.of_kinds[product[pairs.of_kinds] >= 0]
    own = own[(hashes["kinds"][own] == before["kinds"][product[own]]).all(axis=1)]
    kind_logits[own] = old_kind_logits[product[own]]
    return logits, kind_logits


def _scored(ctx: BuildContext, settings: PostingsSettings, texts: list[str], products: Array) -> Array:
    """Calibrated logits of pairs, float32 [n], computed as a job that an interruption does not lose."""
    folder, size = ctx.work / "scoring", settings.shard_pairs
    names = []
    for start in range(0, len(texts), size):
        frame = pl.DataFrame({"query": texts[start : start + size], "product": products[start : start + size]})
        digest = hashlib.blake2s(frame.hash_rows(seed=1).to_numpy().tobytes(), digest_size=8).hexdigest()
        names.append(f"{start // size:05d}-{digest}.parquet")
        write_whole(frame, folder / "pairs" / names[-1])
    scorer = ServedCrossEncoder(ctx.build)
    done = label_folder(folder, scorer, ctx.track, names=names, ray_address=settings.ray, say=ctx.log)
    if done.pairs:
        ctx.log(f"{done.pairs:,} pairs scored in {done.seconds:.0f} s, {done.pairs_per_second:,.0f} pairs/s")
    parts = [pl.read_parquet(folder / "labels" / name)["score"].to_numpy() for name in names]
    return np.concatenate([np.empty(0, np.float32), *parts])


def _unlisted(store: ItemStore, rows: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Pairs without a posting such as pages ask for: keywords and popular products near them that they do not list.

    Returns:
        Keyword and product int64 [at most count], and their cosine float32 of the same shape.
    """
    weight = store.popularity.astype(np.float64) + 1e-3
    products = rng.choice(len(store), min(len(store), _SAMPLED_PRODUCTS), replace=False, p=weight / weight.sum())
    keywords = rng.choice(len(rows), min(len(rows), count), replace=False)
    vectors = store.vectors[products].astype(np.float32).T
    each = -(-count // max(len(keywords), 1))
    found = []
    for keyword in keywords.tolist():
        cosine = store.keyword_vectors[keyword].astype(np.float32) @ vectors
        near = np.flatnonzero((cosine >= _NEAR) & ~np.isin(products, rows[keyword]))
        found += [(keyword, products[at], cosine[at]) for at in rng.permutation(near)[:each]]
    lines, columns, cosines = zip(*found, strict=True) if found else ((), (), ())
    return np.array(lines, np.int64), np.array(columns, np.int64), np.array(cosines, np.float32)


def _meta(ctx: BuildContext, cosine: Array, logits: Array) -> PostingsMeta:
    """Temperature, and the line that estimates a logit from a cosine, fitted to pairs of `_unlisted`."""
    calibration = Calibration.model_validate_json((ctx.input(_MODEL) / "calibration.json").read_text(encoding="utf-8"))
    slope, offset = 0.0, calibration.bias
    if len(logits):
        spread = float(cosine.var())
        together = float(((cosine - cosine.mean()) * (logits - logits.mean())).mean())
        slope = together / spread if spread > 1e-9 else 0.0
        offset = float(logits.mean()) - slope * float(cosine.mean())
    return PostingsMeta(temperature=calibration.scale * calibration.temperature, slope=slope, offset=offset)
