"""Parameters of the stage ``retrieval``."""

from typing import Any, Literal

from pydantic import Field, model_validator

from endcap_server.declared.parameters import ModelParameters
from endcap_server.stages.sources import HISTORY_ITEMS, CandidateSource


def _share(default: float, what: str) -> Any:
    return Field(default, ge=0, le=100, description=f"turns of {what} in the choice of candidates, against the others'")


class RetrievalParameters(ModelParameters):
    """Parameters of ``retrieval/config.pbtxt``."""

    default_budget_ms: int = Field(2000, ge=1, le=600_000, description="BUDGET_MS of a request that does not say")
    max_budget_ms: int = Field(30_000, ge=1, le=600_000, description="longer budgets are cut to this")
    max_in_flight: int = Field(
        64, ge=0, le=1024, description="requests in flight beyond which more are refused; 0: nothing is ever refused"
    )
    min_in_flight: int = Field(
        2, ge=1, le=1024, description="requests in flight below which none is refused, whatever it is expected to take"
    )
    admission_share: float = Field(
        0.85, gt=0, le=1, description="share of its budget that a request may be expected to take to be let in"
    )
    retrieval_share: float = Field(0.15, gt=0, lt=1, description="share of the budget that retrieval may use")
    theme_share: float = Field(0.35, ge=0, lt=1, description="share of the budget that theme may use")
    keywords_share: float = Field(0.25, ge=0, lt=1, description="share of the budget that keywords may use")
    history_used: int = Field(
        HISTORY_ITEMS, ge=1, le=1000, description="most recent known products of HISTORY that are used"
    )
    session_used: int = Field(5, ge=1, le=20, description="most recent texts of SESSION that are searched for")
    interests: int = Field(4, ge=1, le=16, description="interests (categories) of the history that are searched for")
    half_life: float = Field(20.0, gt=0, le=1000, description="events after which one in the history counts half")
    session_placements: int = Field(2, ge=0, le=5, description="latest searches of SESSION that get a placement each")
    session_products: int = Field(40, ge=4, le=512, description="products of such a placement that are scored, at most")
    session_weight: float = Field(1.5, gt=0, le=100, description="weight of the session against the history")
    session_blend: float = Field(0.3, ge=0, le=5, description="weight of the history in a search of the session")
    candidates: int = Field(300, ge=10, le=2000, description="candidate products of a storefront")
    repeat_share: float = _share(0.3, "what the shopper had before")
    together_share: float = _share(0.15, "what the same shoppers buy")
    popular_share: float = _share(0.2, "what sells now")
    category_share: float = _share(0.15, "what sells now in the shopper's categories")
    vector_share: float = _share(0.2, "what is like the history")
    session_share: float = _share(0.8, "what is like the session's searches, if there are any, and the history,")
    search_candidates: int = Field(150, ge=10, le=2000, description="candidate products of a search")
    search_words: float = Field(
        0.5, ge=0, le=1, description="weight of the words, against the vectors, in the choice of a search's candidates"
    )
    search_keywords: int = Field(3, ge=1, le=16, description="known keywords that a search is matched to")
    search_keyword_similarity: float = Field(
        0.85, ge=0, le=1, description="least cosine of a query and a known keyword that says the same"
    )
    seasons: Literal["north", "south", "none"] = Field("north", description="whose seasons LLM 1 is told, if any")
    cached_shoppers: int = Field(
        1000,
        ge=0,
        le=1_000_000,
        description="shoppers whose candidates are kept for an equal request, until a fact changes; 0: none",
    )
    recorded_requests: int = Field(
        64, ge=0, le=1000, description="latest requests kept for endcap apply to replay, at most 4 a second; 0: none"
    )

    @model_validator(mode="after")
    def _something_is_found(self) -> "RetrievalParameters":
        if not any(self.turns(session=False).values()) or not any(self.turns(session=True).values()):
            raise ValueError("at least one share of a source of candidates above 0, with a session and without")
        return self

    def turns(self, *, session: bool) -> dict[CandidateSource, float]:
        """Share of turns of each source; ``session``: whether the shopper has searched in this session."""
        return {
            CandidateSource.REPEAT: self.repeat_share,
            CandidateSource.TOGETHER: self.together_share,
            CandidateSource.POPULAR: self.popular_share,
            CandidateSource.CATEGORY: self.category_share,
            CandidateSource.VECTOR: self.session_share if session else self.vector_share,
        }

    @model_validator(mode="after")
    def _shares_leave_something(self) -> "RetrievalParameters":
        if (total := self.retrieval_share + self.theme_share + self.keywords_share) > 0.95:
            raise ValueError(f"shares of the budget that leave 0.05 for rerank and fusion, their sum is {total:g}")
        return self
