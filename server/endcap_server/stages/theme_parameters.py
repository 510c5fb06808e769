"""Parameters of the stage ``theme``, and what its quality checks find."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from endcap_server.declared.parameters import IsFile
from endcap_server.prepared.page import MOST_DRIFT
from endcap_server.shop import prompts
from endcap_server.stages.answer_cache import CacheParameters

_SPARE = prompts.MAX_PLACEMENTS - 16


class ThemeCheck(StrEnum):
    """What the quality checks of themes find."""

    REQUIRED_THEME_WITHOUT_PLACE = "required_theme_without_place"
    REQUIRED_THEME_AGAINST_POLICY = "required_theme_against_policy"
    MALFORMED_ANSWER = "malformed_answer"
    CUT_ANSWER = "cut_answer"
    TITLE_LENGTH = "title_length"
    TITLE_SCRIPT = "title_script"
    TITLE_WORD = "title_word"
    TITLE_BRAND = "title_brand"
    TITLE_REPEATS = "title_repeats"
    TITLE_BROKEN = "title_broken"
    TITLE_SEARCH = "title_search"
    POLICY_PROFANITY = "policy_profanity"
    POLICY_HATE = "policy_hate"
    POLICY_SEXUAL = "policy_sexual"
    POLICY_VIOLENCE = "policy_violence"
    POLICY_DRUGS = "policy_drugs"
    POLICY_CLAIMS = "policy_claims"
    POLICY_OTHER = "policy_other"
    NO_CONCEPTS = "no_concepts"
    CONCEPT_POLICY = "concept_policy"
    NEAR_DUPLICATE = "near_duplicate"
    CONCEPT_EXCLUDED = "concept_excluded"
    REQUIRED_THEME_EXCLUDED = "required_theme_excluded"
    THEME_EXCLUDED = "theme_excluded"
    TITLE_EXCLUDED = "title_excluded"
    TITLE_BANNED = "title_banned"
    REQUIRED_THEME_BANNED = "required_theme_banned"

    @classmethod
    def _missing_(cls, value: object) -> "ThemeCheck | None":
        """Sections of an operator's own word list are the operator's to name."""
        return cls.POLICY_OTHER if str(value).startswith("policy_") else None


class ThemeCause(StrEnum):
    """Why themes are not LLM 1's, though it answered."""

    TOO_FEW = "too_few"


class ThemeParameters(CacheParameters):
    """Parameters of ``theme/config.pbtxt``."""

    spare: int = Field(1, ge=0, le=_SPARE, description="themes beyond P, for the quality checks of later stages")
    tokens_per_theme: int = Field(64, ge=16, le=256, description="most tokens that LLM 1 may write for one theme")
    checks_ms: float = Field(15.0, ge=0, le=1000, description="milliseconds of the budget kept for the checks")
    text_policy: Annotated[str, IsFile()] = Field(
        "", description="word list of the text policy; empty: the one that endcap brings"
    )
    min_title: int = Field(3, ge=1, le=60, description="least characters of a title")
    max_title: int = Field(72, ge=5, le=200, description="most characters of a title")
    max_title_words: int = Field(9, ge=1, le=40, description="most words of a title")
    scripts: str = Field(
        "auto", description="scripts that titles may be in (LATIN,CYRILLIC); auto: the catalogue's own"
    )
    unknown_words: Literal["refuse", "allow"] = Field(
        "refuse",
        description="words that neither the catalogue, the titles LLM 1 learned from, nor the bi-encoder's vocabulary "
        "have: misspellings",
    )
    brands_in_titles: Literal["allow", "shopper", "refuse"] = Field(
        "shopper", description="brands a title may name: any, those the shopper buys or the campaign names, or none"
    )
    max_similarity: float = Field(0.92, gt=0, le=1, description="cosine from which two titles are near-duplicates")
    max_overlap: float = Field(0.67, gt=0, le=1, description="share of common words from which they are")
    prepared_store: str = Field(
        "", description="folder or redis:// address of prepared pages; empty: the folder prepared of the served build"
    )
    prepared_drift: int = Field(
        2, ge=-1, le=MOST_DRIFT, description="new purchases and searches up to which they are taken; -1: never"
    )
    prepared_ttl_s: float = Field(
        604_800.0, ge=0, le=100_000_000, description="seconds for which one may be taken, 0: no limit"
    )
    prepared_timeout_ms: float = Field(
        20.0, gt=0, le=1000, description="milliseconds that a request waits for their store at most"
    )
