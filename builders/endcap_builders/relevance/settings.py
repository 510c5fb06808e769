"""Settings of teacher, cross-encoder and postings. They import nothing that trains, so that a build starts fast."""

from typing import Literal

from pydantic import Field

from endcap_builders.pretrained.checkpoints import HELP
from endcap_builders.pretrained.models import DEFAULT
from endcap_builders.step import Settings

THEME_PRODUCTS = "theme_products.parquet"
"""Of the step merchandising: texts of themes with products that do and do not fit."""


class SampleSettings(Settings):
    """Which labelled pairs a model is trained on; the same for teacher and student."""

    max_pairs: int = Field(8000, ge=2, description="most labelled pairs, without the negatives added to them")
    theme_share: float = Field(0.25, ge=0, le=1, description="share of the labelled pairs that are theme and product")
    random_negatives: float = Field(0.3, ge=0, le=5, description="random irrelevant products for each labelled pair")
    passed_over: float = Field(
        0.5,
        ge=0,
        le=5,
        description="near but unjudged products for each labelled pair, as irrelevant, where people"
        " judged most of what is near a query",
    )
    passed_over_coverage: float = Field(
        0.5, ge=0, le=1, description="share of a query's nearest 10 that must be judged for that"
    )


class AugmentationSettings(Settings):
    """Settings of the pairs that the teacher labels."""

    mined_queries: int = Field(150, ge=0, description="searched texts whose candidates the teacher labels")
    mined_multiple: float = Field(
        0, ge=0, description="as many mined pairs for each labelled one; 0: as many texts as mined_queries says"
    )
    mined_group: int = Field(16, ge=2, le=200, description="candidates of each of these")
    dense_share: float = Field(0.5, ge=0, le=1, description="share of the candidates that the bi-encoder finds")
    lexical_share: float = Field(0.25, ge=0, le=1, description="share that BM25 finds")
    neighbour_share: float = Field(
        0.0, ge=0, le=1, description="share that the bi-encoder finds for similar searches; the rest is random"
    )
    shard_pairs: int = Field(1024, ge=1, description="pairs the teacher labels between two savings")
    ray: str = Field(
        "", description="label on this Ray cluster: its address, auto, or local for this machine; empty: without Ray"
    )

    def queries_for(self, labelled_pairs: int) -> int:
        """Number of searches to mine around."""
        if self.mined_multiple:
            return round(self.mined_multiple * labelled_pairs / self.mined_group)
        return self.mined_queries


class TeacherSettings(SampleSettings):
    """Options of the relevance teacher."""

    checkpoint: str = Field(
        "",
        description=f"checkpoint to start from, an encoder or a language model: {HELP}; empty: {DEFAULT}",
    )
    layers: int = Field(0, ge=0, description="transformer layers to keep, from the bottom; 0: all")
    lora_rank: int = Field(0, ge=0, le=512, description="train adapters of this rank (language models); 0: all weights")
    train_embeddings: bool = Field(True, description="train the token embeddings too: half of a small encoder")
    label_values: str = Field(
        "",
        description="relevance of each label, e.g. '1:0 2:0.3 3:0.7 4:1', linear between; empty: lowest 0, highest 1",
    )
    grades: int = Field(4, ge=2, le=20, description="relevance grades between which labels are interpolated")
    label_spread: float = Field(
        0.0, ge=0, le=3, description="grades by which a label is spread (a normal curve); 0: the two neighbours only"
    )
    held_out_share: float = Field(0.1, gt=0, lt=0.5, description="share of the queries kept for calibration")
    weak_queries: int = Field(600, ge=2, description="queries made from the catalogue where nobody has judged any")
    warm_up_pairs: int = Field(
        0, ge=0, description="mined pairs on which it learns to judge as the bi-encoder does before it sees labels"
    )
    epochs: float = Field(2.2, gt=0, description="passes over the pairs")
    train_seconds: float = Field(300.0, gt=0, description="training ends after this time even within a pass")
    evaluations: int = Field(
        0, ge=0, le=1000, description="looks at held-out queries while training, of which the best stays; 0: the last"
    )
    patience: int = Field(3, ge=1, description="looks without a better figure after which training ends")
    batch_size: int = Field(32, ge=2, description="pairs per step")
    learning_rate: float = Field(2e-4, gt=0, le=1e-2, description="peak learning rate")


class CrossEncoderSettings(AugmentationSettings, SampleSettings):
    """Options of the cross-encoder student."""

    checkpoint: str = Field(
        "",
        description=f"checkpoint of an encoder to start from: {HELP}; empty: the teacher's layers",
    )
    layers: int = Field(6, ge=0, description="transformer layers to keep, from the bottom; 0: all; fewer serve faster")
    human_weight: float = Field(
        1.0,
        ge=0,
        le=1,
        description="weight of a label against the teacher's score; below 1 the teacher reads labelled pairs too",
    )
    target: Literal["grade", "logit"] = Field(
        "grade", description="what the student's margins are of: the expected grade, or its logit"
    )
    train_embeddings: bool = Field(True, description="train the token embeddings too: half of a small encoder")
    anchor: float = Field(0.3, ge=0, description="weight of the pointwise loss beside the margins")
    group_size: int = Field(16, ge=2, le=200, description="products of a query compared in one step")
    epochs: float = Field(1.0, gt=0, description="passes over the pairs")
    labelled_passes: int = Field(
        1, ge=1, le=20, description="passes over labelled pairs in one over all: mined ones are many more"
    )
    least_steps: int = Field(1, ge=1, description="steps even where few pairs would make fewer")
    held_out_pairs: int = Field(
        4000, ge=2, description="most held-out pairs on which it is calibrated and measured; judged ones before themes"
    )
    train_seconds: float = Field(300.0, gt=0, description="training ends after this time even within a pass")
    evaluations: int = Field(
        0, ge=0, le=1000, description="looks at held-out queries while training, of which the best stays; 0: the last"
    )
    patience: int = Field(3, ge=1, description="looks without a better figure after which training ends")
    batch_size: int = Field(32, ge=2, description="pairs per step")
    learning_rate: float = Field(1e-4, gt=0, le=1e-2, description="peak learning rate")


class PostingsSettings(Settings):
    """Which pairs the step `postings` scores."""

    products: int = Field(64, ge=0, le=64, description="products of each keyword that are scored, the best ones first")
    kind_products: int = Field(
        512, ge=0, description="products of each kind that are scored with its name, the most popular ones first"
    )
    most_pairs: int = Field(
        500_000, ge=0, description="most pairs; kinds come first, then keywords by the number of their searches"
    )
    estimate_pairs: int = Field(
        600, ge=0, description="other pairs near keywords, to which the estimates of pairs without a posting are fitted"
    )
    shard_pairs: int = Field(2048, ge=1, description="pairs that are scored between two savings")
    ray: str = Field(
        "", description="score on this Ray cluster: its address, auto, or local for this machine; empty: without Ray"
    )
