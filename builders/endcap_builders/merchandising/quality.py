"""Quality checks of a teacher's answers (P2: students are trained on examples that pass such checks)."""

from collections import Counter
from collections.abc import Sequence

from endcap_server.shop.prompts import MAX_CONCEPTS, TITLE_CHARACTERS, ThemeDraft, clean
from endcap_server.shop.words import stems

from endcap_builders.merchandising.topics import presentable

MIN_TITLE, MAX_TITLE = 4, TITLE_CHARACTERS
MAX_WORDS = 9
_SHARED_CONCEPTS = 2


def prune_page(drafts: Sequence[ThemeDraft], counts: Counter[str], searches: Sequence[str] = ()) -> list[ThemeDraft]:
    """Keep the placements that pass; `counts` counts the reasons of the others.

    A placement for one of the `searches` can have the search as its only concept.
    """
    kept: list[ThemeDraft] = []
    for draft in drafts:
        fixed = _tidied(draft)
        reason = _fault(fixed, draft, kept, searches)
        if reason:
            counts[reason] += 1
        else:
            kept.append(fixed)
    return kept


def prune_keywords(chosen: Sequence[str], candidates: Sequence[str], choose: int, counts: Counter[str]) -> list[str]:
    """Keep a choice of the wanted number of distinct candidates; [] otherwise."""
    known = set(candidates)
    valid = [keyword for keyword in dict.fromkeys(chosen) if keyword in known]
    if len(valid) < len(list(chosen)):
        counts["keyword not a candidate, or repeated"] += 1
    if len(valid) < min(choose, len(candidates)):
        counts["too few keywords"] += 1
        return []
    return valid[:choose]


def _tidied(draft: ThemeDraft) -> ThemeDraft:
    title = clean(draft.title, len(draft.title) or 1, commas=True).rstrip(".")
    concepts = dict.fromkeys(clean(concept, len(concept) or 1).lower() for concept in draft.concepts)
    return ThemeDraft(title, tuple(text for text in concepts if presentable(text))[:MAX_CONCEPTS])


def _fault(draft: ThemeDraft, original: ThemeDraft, kept: Sequence[ThemeDraft], searches: Sequence[str]) -> str:
    body = draft.title.rstrip("?!")
    if not MIN_TITLE <= len(draft.title) <= MAX_TITLE or len(draft.title.split()) > MAX_WORDS:
        return "title length"
    if not all(presentable_word(word) for word in body.replace(", ", " ").split()):
        return "title characters"
    quote = len(draft.concepts) == 1 and draft.concepts[0] in searches
    if len(draft.concepts) < 2 and not quote:
        return "too few concepts" if len(original.concepts) < 2 else "concepts no shopper would type"
    if quote and any(other.concepts == draft.concepts for other in kept):
        return "duplicate concepts"
    for other in kept:
        if stems(other.title) == stems(draft.title):
            return "duplicate title"
        if len(set(other.concepts) & set(draft.concepts)) >= _SHARED_CONCEPTS:
            return "duplicate concepts"
    return ""


def presentable_word(word: str) -> bool:
    """Whether the theme grammar can write a word."""
    return presentable(f"a {word}")
