"""Settings of `endcap evaluate search --grid`."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from endcap_builders.step import Settings


def _listed(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


Integers = Annotated[tuple[int, ...], BeforeValidator(_listed)]


class EvaluationSettings(Settings):
    """Options of the evaluation; those of teacher and student are the steps' own."""

    labelled_pairs: int = Field(1000, ge=10, description="pairs labelled by people that teacher and students may see")
    multiples: Integers = Field(
        (0, 1, 2, 4, 8, 16), description="mined pairs for each labelled pair: one student each; 0 has none"
    )
    layers: Integers = Field((6, 4, 3, 2), description="layers of the students compared by cost, the full one first")
    seeds: Integers = Field((1, 2, 3), description="repetitions of the main claim: teacher, and students at both ends")
    curve_seeds: int = Field(1, ge=1, description="how many of the seeds train the students between the ends too")
    max_product_tokens: int = Field(0, ge=0, description="a product is cut here, for speed; 0: as in the item store")
    max_queries: int = Field(0, ge=0, description="most queries to evaluate on, drawn at random; 0: all")
    corpus_queries: int = Field(100, ge=0, description="most queries for which the whole corpus is ranked; 0: none")
    corpus_seeds: int = Field(1, ge=1, description="for how many of the seeds: a corpus has many candidates to score")
    corpus_depth: int = Field(100, ge=10, description="candidates of a query, as search chooses them, to rerank")
    relevant: float = Field(0.5, gt=0, le=1, description="relevance from which a product counts for recall")
    speed_pairs: int = Field(128, ge=1, description="pairs whose scoring is timed")
    speed_rounds: int = Field(15, ge=3, description="rounds in which the students take turns")


TEACHER: dict[str, Any] = {"theme_share": 0.0, "train_embeddings": False, "epochs": 4.0, "train_seconds": 7200.0}
"""Settings of the evaluation's teacher that differ from the step's defaults."""

STUDENT: dict[str, Any] = {
    "theme_share": 0.0,
    "train_embeddings": False,
    "epochs": 2.0,
    "least_steps": 100,
    "train_seconds": 7200.0,
}
"""The same for its students."""
