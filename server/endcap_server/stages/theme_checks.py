"""Quality checks of themes (AIQA, P2): which titles and concepts may be shown."""

from collections.abc import Sequence
from pathlib import Path

from endcap_server.shop import prompts
from endcap_server.shop.exclusion import ExcludedNames
from endcap_server.shop.prompts import ThemeDraft
from endcap_server.shop.standing_rules import Standing
from endcap_server.shop.store import ItemStore
from endcap_server.shop.text_policy import DEFAULT_WORDS, TextPolicy
from endcap_server.shop.title_checks import (
    SEARCH_WORDS,
    TITLE_JOINS,
    TITLE_WORDS,
    BrandCheck,
    ScriptCheck,
    WordCheck,
    lists_a_thing_twice,
)
from endcap_server.stages.status import StatusPart
from endcap_server.stages.theme_parameters import ThemeCheck, ThemeParameters

MAX_CONCEPTS = 4
_STUDENT, _TOKENIZER = "theme_llm", "bi_encoder/tokenizer.json"
FILES = (*(f"{_STUDENT}/{name}" for name in (TITLE_WORDS, SEARCH_WORDS, TITLE_JOINS)), _TOKENIZER)
"""Files of a build that the checks read, if they are there."""


class ThemeChecks:
    """The checks of single themes.

    Args:
        build: The build.
        store: Its products, keywords and brands.
        settings: Of the stage.
    """

    def __init__(self, build: Path, store: ItemStore, settings: ThemeParameters):
        self._settings = settings
        self._policy = TextPolicy.read(Path(settings.text_policy) if settings.text_policy else DEFAULT_WORDS)
        self._scripts = ScriptCheck.of(store, settings.scripts)
        self._brands = BrandCheck.of(store)
        self._words = WordCheck.of(store, build / _STUDENT, build / _TOKENIZER)

    def against_policy(self, text: str) -> bool:
        """Whether the text policy refuses a text."""
        return bool(self._policy.find(text))

    def required(
        self,
        titles: Sequence[str],
        drafts: Sequence[ThemeDraft],
        excluded: ExcludedNames | None,
        status: StatusPart,
    ) -> list[ThemeDraft]:
        """The merchandiser's themes, always shown; LLM 1's concepts for them, or their own words."""
        themes = []
        for index, title in enumerate(titles):
            if self._policy.find(title):
                status.count(ThemeCheck.REQUIRED_THEME_AGAINST_POLICY)
            if excluded is not None and excluded.names(title):
                status.count(ThemeCheck.REQUIRED_THEME_EXCLUDED)
            concepts = self.clean_concepts(drafts[index].concepts, excluded, status) if drafts else ()
            themes.append(ThemeDraft(title, concepts or (title,)))
        return themes

    def check(
        self,
        draft: ThemeDraft,
        shopper: str,
        excluded: ExcludedNames | None,
        standing: Standing,
        status: StatusPart,
    ) -> ThemeDraft | None:
        """A theme that may be shown, with the concepts that may be, or None; the reason is counted."""
        settings = self._settings
        title = " ".join(draft.title.split())
        if not settings.min_title <= len(title) <= settings.max_title or len(title.split()) > settings.max_title_words:
            status.count(ThemeCheck.TITLE_LENGTH, text=title)
        elif section := self._policy.find(title):
            name = f"policy_{section}"
            status.count(ThemeCheck(name), name=name, text=title)
        elif not self._scripts.allows(title):
            status.count(ThemeCheck.TITLE_SCRIPT, text=title)
        elif self._has_unknown_words(title, shopper):
            status.count(ThemeCheck.TITLE_WORD, text=title)
        elif self._names_a_brand(title, shopper):
            status.count(ThemeCheck.TITLE_BRAND, text=title)
        elif self._words is not None and self._words.speaks_of_a_search(title) and not _is_quoted(draft, shopper):
            status.count(ThemeCheck.TITLE_SEARCH, text=title)
        elif lists_a_thing_twice(title):
            status.count(ThemeCheck.TITLE_REPEATS, text=title)
        elif self._words is not None and self._words.is_broken(title, shopper):
            status.count(ThemeCheck.TITLE_BROKEN, text=title)
        elif standing.bans_title(title):
            status.count(ThemeCheck.TITLE_BANNED, text=title)
        elif excluded is not None and excluded.names(title):
            status.count(ThemeCheck.TITLE_EXCLUDED, text=title)
        elif concepts := self.clean_concepts(draft.concepts, excluded, status):
            return ThemeDraft(title, concepts)
        else:
            status.count(ThemeCheck.NO_CONCEPTS, text=title)
        return None

    def _has_unknown_words(self, title: str, shopper: str) -> bool:
        if self._words is None or self._settings.unknown_words == "allow":
            return False
        return bool(self._words.unknown_in(title, shopper))

    def _names_a_brand(self, title: str, shopper: str) -> bool:
        if self._settings.brands_in_titles == "allow":
            return False
        named = self._brands.named_in(title)
        if self._settings.brands_in_titles == "shopper":
            named -= self._brands.named_in(shopper)
        return bool(named)

    def clean_concepts(
        self, concepts: Sequence[str], excluded: ExcludedNames | None, status: StatusPart
    ) -> tuple[str, ...]:
        """The concepts that may be shown, distinct; what is left out is counted."""
        kept = [" ".join(text.split()) for text in concepts if text.strip()]
        allowed = [text for text in kept if not self._policy.find(text) and self._scripts.allows(text)]
        status.count(ThemeCheck.CONCEPT_POLICY, len(kept) - len(allowed))
        if excluded is not None:
            named = [text for text in allowed if excluded.names(text)]
            status.count(ThemeCheck.CONCEPT_EXCLUDED, len(named))
            allowed = [text for text in allowed if text not in named]
        return tuple(dict.fromkeys(allowed))[:MAX_CONCEPTS]


def _is_quoted(draft: ThemeDraft, shopper: str) -> bool:
    """Whether the theme is about a search of the shopper text."""
    return bool(draft.concepts) and draft.concepts[0] in prompts.quoted_texts(shopper)[1]
