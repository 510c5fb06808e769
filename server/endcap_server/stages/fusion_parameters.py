"""Parameters of the stage ``fusion``: weights, floors, limits."""

from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from endcap_server.declared.parameters import IsFile, ModelParameters, SetBy
from endcap_server.stages.page import BLENDED, SIGNALS
from endcap_server.stages.placements import Limits


def _weight(default: float, what: str, where: str) -> Any:
    return Field(default, ge=0, le=100, description=f"weight of {what} in the score of a {where}'s products")


class FusionParameters(ModelParameters):
    """Parameters of ``fusion/config.pbtxt``."""

    margin: float = _weight(0.10, "the cross-encoder's win share among the placement's products", "placement")
    relevance: float = _weight(0.15, "the cross-encoder's relevance", "placement")
    similarity: float = _weight(0.05, "the cosine of theme and product", "placement")
    lexical: float = _weight(0.0, "the match of words; searches alone measure it", "placement")
    ranker: float = _weight(1.0, "the traditional ranker, which knows the shopper,", "placement")
    popularity: float = _weight(0.05, "popularity", "placement")
    retrieval: float = _weight(0.05, "retrieval's order", "placement")
    search_margin: float = _weight(0.35, "the cross-encoder's win share among the found products", "search")
    search_relevance: float = _weight(0.35, "the cross-encoder's relevance", "search")
    search_similarity: float = _weight(0.15, "the cosine of query and product", "search")
    search_lexical: float = _weight(0.25, "the match of the query's words", "search")
    search_ranker: float = _weight(0.05, "the traditional ranker, which knows the shopper,", "search")
    search_popularity: float = _weight(0.02, "popularity", "search")
    search_retrieval: float = _weight(0.03, "retrieval's order", "search")
    diversity: float = Field(
        0.05, ge=0, le=10, description="what a twin of a product above it loses, in a placement with a theme"
    )
    search_diversity: float = Field(0.0, ge=0, le=10, description="the same in a search")
    diversity_threshold: float = Field(0.6, ge=-1, lt=1, description="cosine from which products resemble each other")
    max_per_brand: int = Field(
        0, ge=0, le=1000, description="products of a brand in a placement, 0: any; rules override"
    )
    relevance_floor: float = Field(
        0.2, ge=0, le=1, description="least relevance of a product that fits its theme (AIQA)"
    )
    similarity_floor: float = Field(
        0.2,
        ge=-1,
        le=1,
        description="least cosine of one, where there is no relevance because the cross-encoder failed",
    )
    search_relevance_floor: float = Field(
        0.0, ge=0, le=1, description="least relevance of a found product; a search is never emptied by it"
    )
    least_products: int = Field(
        4, ge=1, le=100, description="products that fit, below which a placement is a last resort"
    )
    max_overlap: float = Field(0.5, gt=0, le=1, description="share of common products from which placements are alike")
    max_placement_similarity: float = Field(
        0.97, gt=0, le=1, description="cosine of the mean product vectors from which placements are alike"
    )
    order_weight: float = Field(
        0.02, ge=0, le=0.05, description="share of its value that a theme loses with each place LLM 1 put it later"
    )
    least_generated: int = Field(
        2, ge=0, le=16, description="placements with a theme, as long as there are so many with products that fit"
    )
    most_classic: int = Field(
        2, ge=0, le=16, description="classic placements (buy again, goes with, popular now), at most"
    )
    least_new: float = Field(
        0.45,
        ge=0,
        le=1,
        description="least share of a page's products that are new to the shopper, as far as values go",
    )
    facts_stale_after_s: float = Field(
        0.0, ge=0, le=10_000_000, description="age in seconds from which facts make an answer degraded, 0: never"
    )
    record_exposures: bool = Field(
        True, description="record what pages and searches show, where endcap serve names a folder (docs/exposures.md)"
    )
    exposures_waiting: int = Field(
        2000, ge=1, le=1_000_000, description="pages that wait to be written; more are dropped and counted"
    )
    exposure_segment_rows: int = Field(5000, ge=1, le=1_000_000, description="most pages of a file of exposures")
    exposure_segment_s: float = Field(
        300.0, gt=0, le=86_400, description="seconds after which a file of exposures is closed"
    )
    exposure_megabytes: float = Field(
        4096.0, gt=0, le=100_000_000, description="size of all exposures above which the oldest files are deleted"
    )
    exposure_days: float = Field(
        90.0, gt=0, le=10_000, description="age in days from which files of exposures are deleted"
    )
    exposure_kafka: Annotated[str, IsFile()] = Field(
        "",
        description="file of librdkafka's settings (bootstrap.servers=HOST:PORT): exposures go to Kafka, not to files",
    )
    exposure_topic: str = Field(
        "endcap-exposures",
        pattern=r"^[A-Za-z0-9._-]{1,249}$",
        description="topic of Kafka that they go to",
    )
    generation: Annotated[int, SetBy("endcap apply")] = Field(
        1, ge=1, description="number of the set of models that a page comes from, for STATUS; endcap apply sets it"
    )

    @model_validator(mode="after")
    def _something_counts(self) -> "FusionParameters":
        for prefix in ("", "search_"):
            if not any(self.weights(prefix == "search_")):
                raise ValueError(f"at least one {prefix}weight above 0")
        return self

    def limits(self, placements: int, products: int) -> Limits:
        """What the choice of a page's placements has to keep."""
        return Limits(
            placements=placements,
            products=products,
            least_products=self.least_products,
            max_overlap=self.max_overlap,
            max_similarity=self.max_placement_similarity,
            order_weight=self.order_weight,
            least_generated=self.least_generated,
            most_classic=self.most_classic,
        )

    def weights(self, is_search: bool) -> np.ndarray:
        """Weights of the blended signals, float [BLENDED] in the order of SIGNALS."""
        prefix = "search_" if is_search else ""
        return np.array([getattr(self, prefix + name) for name in SIGNALS[:BLENDED]], np.float64)


def blend_weights(weights: np.ndarray, judged: bool) -> np.ndarray:
    """The weights float [BLENDED] of a build.

    Without an installed cross-encoder its weights go to what matches a text and a product without it, the cosine and
    the words, in the ratio of their own weights; all to the cosine if neither has any.
    """
    if judged:
        return weights
    moved = weights.copy()
    unknown = [SIGNALS.index("margin"), SIGNALS.index("relevance")]
    similarity, lexical = SIGNALS.index("similarity"), SIGNALS.index("lexical")
    own = weights[[similarity, lexical]]
    shares = own / own.sum() if own.any() else np.array([1.0, 0.0])
    moved[[similarity, lexical]] += weights[unknown].sum() * shares
    moved[unknown] = 0.0
    return moved
