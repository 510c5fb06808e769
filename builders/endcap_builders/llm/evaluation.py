"""Quality of an exported student on held-out examples, computed with the serving engine."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from endcap_server.engines.keyword_llm import KeywordLlm
from endcap_server.engines.llm import Llm
from endcap_server.engines.llm_engine import Completion
from endcap_server.shop import prompts
from endcap_server.shop.grammar import theme_grammar
from endcap_server.shop.prompts import ThemeDraft

from endcap_builders.gates import Gate
from endcap_builders.llm.examples import Example, OrderExample

_THEME_TOKENS = 60


def evaluate_themes(folder: Path, examples: Sequence[Example], known: set[str]) -> tuple[dict[str, Any], list[Gate]]:
    """Let the student write the held-out pages.

    Args:
        folder: the exported student.
        examples: held-out pages.
        known: the catalogue's known keywords and topic names.

    Returns:
        valid: share of answers of the asked number of well-formed themes; known_concepts: share of concepts that are
        known keywords; teacher_concepts: share of concepts that stand on the teacher's page; searches_quoted: share of
        the searches and campaigns on the teacher's page that stand on the student's too; distinct_titles: share
        of titles among all answers; tokens, ms: medians of one answer. And the gate: agreement with the teacher's
        placements, of the student and of a page with one liked kind per placement (about the fallback).
    """
    counts = [len(_page_of(example, example.completion)) for example in examples]
    shoppers = [example.prompt.split("\n")[0] for example in examples]
    grammars = [theme_grammar(count, (), shopper) for count, shopper in zip(counts, shoppers, strict=True)]
    answers, figures = _answer(folder, examples, grammars, _THEME_TOKENS * max(counts))
    valid, titles, shared, in_catalogue, quoted = 0, [], [], [], []
    agreement, of_categories = np.zeros(len(examples)), np.zeros(len(examples))
    for row, (example, answer, count) in enumerate(zip(examples, answers, counts, strict=True)):
        placements = [set(theme.concepts) for theme in _page_of(example, example.completion)]
        wanted = set().union(*placements)
        liked = prompts.liked_kinds(_shopper(example))
        of_categories[row] = _page_agreement([{kind} for kind in liked[:count]], placements)
        try:
            page = _page_of(example, answer.text)
        except prompts.MalformedAnswer:
            continue
        valid += len(page) == count and answer.finish == "stop"
        titles += [theme.title for theme in page]
        concepts = [text for theme in page for text in theme.concepts]
        agreement[row] = _page_agreement([set(theme.concepts) for theme in page], placements)
        shared += [text in wanted for text in concepts]
        quoted += _quotes(example, page)
        in_catalogue += [text in known for text in concepts]
    figures = {
        "valid": round(valid / len(examples), 4),
        "known_concepts": _mean(in_catalogue),
        "teacher_concepts": _mean(shared),
        "searches_quoted": _mean(quoted),
        "distinct_titles": round(len(set(titles)) / max(1, len(titles)), 3),
        **figures,
    }
    measure = "placements of the teacher's page (F1 of their concepts)"
    gate = Gate.of("theme_llm", measure, agreement, "themes of categories", of_categories)
    return figures, [gate]


def evaluate_keywords(folder: Path, examples: Sequence[OrderExample]) -> tuple[dict[str, Any], list[Gate]]:
    """Let the student order the held-out candidates.

    Returns:
        ndcg: agreement of its first candidates with the teacher's, in the teacher's order; nearest_ndcg: the same of
        the nearest candidates, which need no LLM; precision, nearest_precision: share of as many first ones that the
        teacher chose; ms: median of one prompt. And the gate: student and nearest candidates, by ndcg.
    """
    engine = KeywordLlm(folder)
    asked = [example.prompt for example in examples]
    counts = np.array([len(prompts.listed_candidates(prompt)) for prompt in asked])
    (answer,) = engine.run([engine.request(asked, counts)])
    if isinstance(answer, Exception):
        raise answer
    times = []
    for prompt, count in list(zip(asked, counts, strict=True))[:20]:
        start = time.perf_counter()
        engine.run([engine.request([prompt], np.array([count]))])
        times.append(time.perf_counter() - start)
    orders = [example.order for example in examples]
    found = [line[: len(order)].tolist() for line, order in zip(answer.order, orders, strict=True)]
    nearest = [list(range(len(order))) for order in orders]
    ndcg, of_nearest = (
        np.array([order_agreement(one, order) for one, order in zip(each, orders, strict=True)])
        for each in (found, nearest)
    )
    figures = {
        "ndcg": _mean(ndcg.tolist()),
        "nearest_ndcg": _mean(of_nearest.tolist()),
        "precision": _mean([len({*one} & {*order}) / len(order) for one, order in zip(found, orders, strict=True)]),
        "nearest_precision": _mean(
            [len({*one} & {*order}) / len(order) for one, order in zip(nearest, orders, strict=True)]
        ),
        "ms": round(1000 * float(np.median(times)), 1),
    }
    return figures, [
        Gate.of("keyword_llm", "the teacher's order of keywords (nDCG)", ndcg, "nearest keywords", of_nearest)
    ]


def order_agreement(found: Sequence[int], wanted: Sequence[int]) -> float:
    """NDCG of a list of candidates; the gain of the teacher's first of k is k, of the last 1, of others 0."""
    gain = {candidate: len(wanted) - place for place, candidate in enumerate(wanted)}
    discounts = 1 / np.log2(np.arange(2, len(wanted) + 2))
    gains = np.array([gain.get(candidate, 0) for candidate in found[: len(wanted)]])
    best = np.arange(len(wanted), 0, -1)
    return float((gains * discounts[: len(gains)]).sum() / (best * discounts).sum())


def _answer(
    folder: Path, examples: Sequence[Example], grammars: list[str], max_tokens: int
) -> tuple[list[Completion], dict[str, Any]]:
    engine = Llm(folder)
    try:
        answers = engine.generate([example.prompt for example in examples], grammars, max_tokens)
        times = []
        for example, grammar in list(zip(examples, grammars, strict=True))[:20]:
            start = time.perf_counter()
            engine.generate([example.prompt], [grammar], max_tokens)
            times.append(time.perf_counter() - start)
        tokens = [engine.count_tokens(answer.text) for answer in answers]
    finally:
        engine.close()
    return answers, {"tokens": float(np.median(tokens)), "ms": round(1000 * float(np.median(times)), 1)}


def _agreement(found: set[str], wanted: set[str]) -> float:
    """F1 of a set of texts."""
    return 2 * len(found & wanted) / max(1, len(found) + len(wanted))


def _page_agreement(found: Sequence[set[str]], wanted: Sequence[set[str]]) -> float:
    """Mean over the wanted placements of the F1 of the found one that comes nearest; sets of concepts."""
    return float(np.mean([max((_agreement(each, one) for each in found), default=0.0) for one in wanted]))


def _shopper(example: Example) -> str:
    return example.prompt.split("\n", 1)[0]


def _page_of(example: Example, answer: str) -> list[ThemeDraft]:
    return prompts.parse_themes(answer, _shopper(example))


def _quotes(example: Example, page: Sequence[ThemeDraft]) -> list[bool]:
    """Whether each search or campaign of the shopper text that the teacher quotes is quoted here."""
    parts = dict(part.partition(":")[::2] for part in _shopper(example).split("|"))
    said = [*parts.get("searched", "").split(","), parts.get("campaign", "").lower()]
    teacher, student = _all_text(_page_of(example, example.completion)), _all_text(page)
    return [text in student for text in said if text and text in teacher]


def _all_text(page: Sequence[ThemeDraft]) -> str:
    return "\n".join(text.lower() for theme in page for text in (theme.title, *theme.concepts))


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4) if len(values) else 0.0
