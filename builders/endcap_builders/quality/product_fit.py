"""The product check against people: how often it drops what fits, and how many misfits it finds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from endcap_server.engines.bi_encoder import BiEncoder
from endcap_server.engines.cross_encoder import CrossEncoder, CrossEncoderRequest
from endcap_server.engines.encoder_runtime import RuntimeOptions
from endcap_server.shop.gates import is_installed
from endcap_server.shop.store import ItemStore
from endcap_server.shop.understanding import Understanding
from endcap_server.stages.fusion_parameters import FusionParameters

from endcap_builders.evaluation.queries import EvaluationError, Judged
from endcap_builders.quality.rates import Graded
from endcap_builders.relevance.judge import Judge
from endcap_builders.relevance.mining import dense_top
from endcap_builders.relevance.pairs import Pairs, make_pairs
from endcap_builders.step import BuildContext

RELEVANCE, SIMILARITY, TEACHER = "relevance (cross-encoder)", "similarity (cosine)", "expected grade (teacher)"
RELATIVE = "cosine less that of the tenth nearest product"
"""Scores that are compared. The first one serves if the build's gates install it, else the second one."""
FLOORS = {RELEVANCE: "relevance_floor", SIMILARITY: "similarity_floor"}
"""Parameters of `fusion` that hold the floors of scores."""
_TENTH = 10


@dataclass(frozen=True)
class Bounds:
    """What counts as fitting and as a misfit, by people's labels in 0..1; what is between is left out.

    Attributes:
        fit: least label of what fits.
        misfit: highest label of a misfit.
        most_false_drops: share of what fits that the check may drop.
        least_found: share of misfits that it should find.
    """

    fit: float
    misfit: float
    most_false_drops: float
    least_found: float


class ProductScores:
    """The scores of (text, product) pairs that the stages `rerank` and `fusion` check products by."""

    def __init__(self, ctx: BuildContext, store: ItemStore):
        self._ctx, self.store = ctx, store
        self._encoder = BiEncoder(ctx.input("bi_encoder"))
        self._understanding = Understanding.of(store)
        folder = ctx.input("cross_encoder")
        self._engine = CrossEncoder(folder, store, RuntimeOptions()) if folder.is_dir() else None

    @property
    def serves(self) -> str:
        """The score that the served check uses."""
        return RELEVANCE if self._engine is not None and is_installed(self._ctx.build, "cross_encoder") else SIMILARITY

    def all_of(self, pairs: Pairs) -> dict[str, np.ndarray]:
        """Every score of pairs, float32 [n] each; those of models that the build has."""
        found = {SIMILARITY: self.similarity(pairs), RELATIVE: self.relative(pairs)}
        if self._engine is not None:
            found = {RELEVANCE: self.relevance(pairs), **found}
        return found

    def relevance(self, pairs: Pairs) -> np.ndarray:
        """Calibrated relevance in 0..1, lowered for texts that the models do not understand, float32 [n].

        Raises:
            EvaluationError: the build has no cross-encoder.
        """
        if self._engine is None:
            raise EvaluationError(f"{self._ctx.build}: expected a cross-encoder, got none; run endcap build")
        scores = np.empty(len(pairs), np.float32)
        groups = list(zip(pairs.queries, pairs.offsets[:-1], pairs.offsets[1:], strict=True))
        for text, start, end in self._ctx.track(groups, "relevance", len(groups)):
            (answer,) = self._engine.run([CrossEncoderRequest([text], pairs.product[None, start:end])])
            if isinstance(answer, Exception):
                raise answer
            scores[start:end] = answer.scores[0] * np.float32(self._understanding.relevance_factor(text))
        return scores

    def similarity(self, pairs: Pairs) -> np.ndarray:
        """Cosine of text and product, float32 [n]."""
        products = np.asarray(self.store.vectors[pairs.product], np.float32)
        return np.einsum("nd,nd->n", self._encoded(pairs)[pairs.query], products).astype(np.float32)

    def relative(self, pairs: Pairs) -> np.ndarray:
        """The cosine, less that of the text's tenth nearest product, float32 [n]."""
        vectors = self._encoded(pairs)
        tenth = np.array([rows[-1] for rows in dense_top(vectors, self.store.vectors, _TENTH)], np.int64)
        level = np.einsum("qd,qd->q", vectors, np.asarray(self.store.vectors[tenth], np.float32))
        return (self.similarity(pairs) - level[pairs.query]).astype(np.float32)

    def _encoded(self, pairs: Pairs) -> np.ndarray:
        return self._encoder.encode(pairs.queries, "query").astype(np.float32)


def product_fit(
    ctx: BuildContext, scores: ProductScores, judged: Judged, bounds: Bounds, floors: FusionParameters
) -> dict[str, Any]:
    """Rates of the product check on queries that no model has seen.

    Args:
        ctx: of the build.
        scores: the scores that are compared.
        judged: the labelled pairs.
        bounds: what fits, what does not, and what the check should reach.
        floors: parameters of the served stage.

    Returns:
        source, queries, fits, misfits, between; serves: the score that the served check uses; scores: by name, the
        operating point, the rates of the served floor, whether the point reaches the bounds, and the curve.

    Raises:
        EvaluationError: no query has a product that fits, or none has a misfit.
    """
    target = judged.pairs.target
    known = (target >= bounds.fit) | (target <= bounds.misfit)
    pairs = judged.pairs.select(known)
    fits = pairs.target >= bounds.fit
    if not fits.any() or fits.all():
        raise EvaluationError(
            f"{judged.source}: expected products that fit (label at least {bounds.fit:g} of 0..1) and misfits (at most "
            f"{bounds.misfit:g}), got {int(fits.sum())} and {int((~fits).sum())}; set quality.fit and quality.misfit"
        )
    found = scores.all_of(pairs)
    if ctx.input("teacher").is_dir():
        found[TEACHER] = Judge(ctx.input("teacher"), ctx.build, ctx.catalogue_folder).judge(pairs)
    served = {name: float(getattr(floors, parameter)) for name, parameter in FLOORS.items()}
    return {
        "source": judged.source,
        "queries": len(pairs.queries),
        "fits": int(fits.sum()),
        "misfits": int((~fits).sum()),
        "between": len(target) - len(pairs),
        "asked": {"most_false_drops": bounds.most_false_drops, "least_found": bounds.least_found},
        "serves": scores.serves,
        "scores": {
            name: _figures(Graded(values, fits, pairs.query), bounds, served.get(name))
            for name, values in found.items()
        },
    }


def _figures(graded: Graded, bounds: Bounds, served: float | None) -> dict[str, Any]:
    point = graded.operating_point(bounds.most_false_drops)
    figures: dict[str, Any] = {
        "point": point,
        "reached": {
            "false_drops": point["false_drops"]["value"] <= bounds.most_false_drops,
            "misfits_found": point["misfits_found"]["value"] >= bounds.least_found,
        },
        "curve": graded.curve(),
    }
    if served is not None:
        figures["served"] = {"floor": served, **graded.at(served)}
    return figures


def pairs_of(texts: Mapping[str, np.ndarray]) -> Pairs:
    """Pairs without labels: text -> product rows, int [m]."""
    queries = [text for text, rows in texts.items() for _ in rows]
    rows = np.concatenate([np.empty(0, np.int64), *texts.values()])
    return make_pairs(queries, rows, np.full(len(rows), np.nan))
