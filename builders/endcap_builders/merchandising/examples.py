"""Training examples for both students and for the cross-encoder, from a teacher."""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from endcap_server.shop import prompts
from endcap_server.shop.prompts import ThemeDraft
from endcap_server.shop.words import stems

from endcap_builders.llm.examples import Example, OrderExample
from endcap_builders.merchandising.merchandiser import Merchandiser
from endcap_builders.merchandising.quality import prune_keywords, prune_page
from endcap_builders.merchandising.statistics import Statistics
from endcap_builders.merchandising.teacher import CopyTeacher, KeywordRequest, ThemeTask
from endcap_builders.merchandising.topics import Array, TitleIndex

_PART = 256
"""Texts that are compared with all keywords at once; many small matrix products would be slow."""


@dataclass(frozen=True)
class Choice:
    """A placement with the keywords that the teacher chose for it."""

    theme: ThemeDraft
    keywords: tuple[str, ...]


def theme_examples(
    teacher: CopyTeacher, requests: Sequence[ThemeTask], counts: Counter[str]
) -> Iterable[tuple[Example, list[ThemeDraft]]]:
    """Yield an example and its page for each request whose page passes the quality checks."""
    for request, drafts in zip(requests, teacher.themes(requests), strict=True):
        _, searches = prompts.quoted_texts(request.profile.text())
        page = prune_page(drafts, counts, searches)[: request.placements]
        if not page:
            counts["empty page"] += 1
            continue
        # The prompt requests the number of themes that the page has, so that the student learns to count.
        prompt = prompts.theme_prompt(request.profile.text(), len(page))
        yield Example(prompt, prompts.theme_completion(page, request.profile.text())), page


def keyword_requests(
    merchandiser: Merchandiser, themes: Sequence[ThemeDraft], choose: int, candidates: int, rng: random.Random
) -> list[KeywordRequest]:
    """Find candidates for each theme as the keywords stage does: the nearest of each concept, interleaved.

    Some requests have the stage's number of `candidates`, most have fewer.
    """
    texts_of_all = list(dict.fromkeys(text for theme in themes for text in theme.concepts))
    merchandiser.vocabulary.prepare(texts_of_all)
    names = merchandiser.statistics.store.keywords
    requests = []
    nearest: dict[str, list[int]] = {}
    width = min(prompts.MAX_CANDIDATES, len(names))
    for start in range(0, len(texts_of_all), _PART):
        part = texts_of_all[start : start + _PART]
        similarity = (
            np.stack([merchandiser.vocabulary.vector(text) for text in part]) @ merchandiser.vocabulary.vectors.T
        )
        nearest.update(zip(part, _best(similarity, width), strict=True))
    for theme in themes:
        turns = itertools.zip_longest(*(nearest[text] for text in theme.concepts), fillvalue=-1)
        rows = dict.fromkeys(row for turn in turns for row in turn if row >= 0)
        # Mostly short lists, which teach the same with fewer tokens.
        limit = candidates if rng.random() < 0.15 else rng.randint(choose + 3, max(candidates // 3, choose + 3))
        texts = prompts.usable_candidates(names[row] for row in itertools.islice(rows, limit))
        if len(texts) > choose:
            requests.append(KeywordRequest(theme, tuple(texts), choose))
    return requests


def keyword_examples(
    teacher: CopyTeacher, requests: Sequence[KeywordRequest], counts: Counter[str]
) -> Iterable[tuple[OrderExample, Choice]]:
    """Yield an example and its choice for each request that the teacher answers well."""
    for request, chosen in zip(requests, teacher.choose_keywords(requests), strict=True):
        kept = prune_keywords(chosen, request.candidates, request.choose, counts)
        if kept:
            prompt = prompts.keyword_prompt(request.theme.title, request.theme.concepts, request.candidates)
            order = tuple(request.candidates.index(text) for text in kept)
            yield OrderExample(prompt, order), Choice(request.theme, tuple(kept))


def theme_products(merchandiser: Merchandiser, choices: Sequence[Choice], rng: random.Random) -> pl.DataFrame:
    """Make graded pairs of placements and products, from which the cross-encoder learns what fits a theme.

    Returns:
        text (`placement_text`), row Int32, product_id, relevance Float32: 1 for a product that one of the placement's
        first three keywords names and finds, 0.8 if it only finds it, 0.6 for others of the theme's topics, 0.2 for
        neighbouring topics, 0 for the rest.
    """
    statistics = merchandiser.statistics
    store, topics = statistics.store, statistics.topics
    index = TitleIndex(store.titles)
    row_of = merchandiser.vocabulary.row
    texts: list[str] = []
    rows: list[int] = []
    grades: list[float] = []
    for choice in choices:
        wanted = merchandiser.vocabulary.topics_of(choice.theme.concepts)
        if not wanted:
            continue
        text = prompts.placement_text(choice.theme.title, choice.keywords)
        graded: dict[int, float] = {}
        for keyword in choice.keywords[:3]:
            found = store.keyword_products[row_of[keyword]][:12].tolist() if keyword in row_of else []
            found = [row for row in found if row >= 0 and int(topics.of_product[row]) in wanted]
            named = set(index.match(stems(keyword)).tolist())
            for row in rng.sample(found, min(2, len(found))):
                graded[row] = max(graded.get(row, 0.0), 1.0 if row in named else 0.8)
        found_by_keywords = {
            row for keyword in choice.keywords if keyword in row_of for row in store.keyword_products[row_of[keyword]]
        }
        for topic in wanted:
            others = [row for row in topics[topic].rows.tolist() if row not in found_by_keywords]
            for row in rng.sample(others, min(1, len(others))):
                graded.setdefault(row, 0.6)
        for topic in _neighbours(statistics, wanted)[:2]:
            graded.setdefault(int(rng.choice(topics[topic].rows)), 0.2)
        for row in rng.choices(range(len(store)), k=3):
            if int(topics.of_product[row]) not in wanted:
                graded.setdefault(row, 0.0)
        texts += [text] * len(graded)
        rows += graded.keys()
        grades += graded.values()
    return pl.DataFrame(
        {
            "text": pl.Series(texts, dtype=pl.String),
            "row": pl.Series(rows, dtype=pl.Int32),
            "product_id": pl.Series(store.product_ids.take(rows), dtype=pl.String),
            "relevance": pl.Series(grades, dtype=pl.Float32),
        }
    )


def _best(similarity: Array, count: int) -> list[list[int]]:
    best = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    return [sorted(found.tolist(), key=lambda row: -line[row]) for found, line in zip(best, similarity, strict=True)]


def _neighbours(statistics: Statistics, wanted: dict[int, float]) -> list[int]:
    """Topics that are most similar to the wanted ones, without these."""
    similarity = (statistics.topic_vectors @ statistics.topic_vectors[list(wanted)].T).max(axis=1)
    return [
        int(topic) for topic in np.argsort(-similarity, kind="stable")[: len(wanted) + 2] if int(topic) not in wanted
    ]
