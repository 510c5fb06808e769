"""The merchandiser's choice of keywords for a theme: nearness, topics, popularity of searches."""

from collections.abc import Sequence

import numpy as np
from endcap_server.shop.words import distinct_things, stems

from endcap_builders.merchandising.teacher import KeywordRequest
from endcap_builders.merchandising.vocabulary import Vocabulary


def choose_keywords(vocabulary: Vocabulary, request: KeywordRequest) -> list[str]:
    """Choose in turns over the concepts: the best remaining keyword by nearness, topic and popularity."""
    store, known = vocabulary.statistics.store, vocabulary.statistics.topics
    concepts = request.theme.concepts
    rows = [vocabulary.row[text] for text in request.candidates if text in vocabulary.row]
    if not rows or not concepts:
        return []
    wanted = vocabulary.topics_of(concepts)
    near = vocabulary.vectors[rows] @ np.stack([vocabulary.vector(text) for text in concepts]).T
    topics = known.of_keyword[rows]
    of_theme = np.array([wanted.get(int(topic), 0.0) > 0 for topic in topics], np.float32)
    mixed = (topics < 0).astype(np.float32)
    counts = np.log1p(store.keyword_counts[rows].astype(np.float32))
    popular = counts / max(float(counts.max()), 1.0)
    worth = near + (0.35 * of_theme + 0.05 * mixed + 0.1 * popular)[:, None]
    # Of other topics, accept only keywords that nearly equal the concept.
    worth[(of_theme == 0) & (near.max(axis=1) < 0.8)] -= 0.5
    # Brands, sizes and typing errors narrow a placement unnecessarily, unless it is about a brand.
    of_brand = _brand_words(vocabulary, concepts)
    if of_brand:
        worth[[not of_brand <= stems(store.keywords[row]) for row in rows]] -= 0.5
    else:
        worth[~known.conceptual[rows]] -= 0.3
    texts = [store.keywords[row] for row in rows]
    chosen: list[str] = []
    for turn in range(request.choose * 4):
        order = np.argsort(-worth[:, turn % len(concepts)], kind="stable").tolist()
        pick = next((text for text in (texts[i] for i in order) if distinct_things([text], chosen)), None)
        if pick is None:
            break
        chosen.append(pick)
        if len(chosen) == request.choose:
            break
    return chosen


def _brand_words(vocabulary: Vocabulary, concepts: Sequence[str]) -> frozenset[str]:
    """Stems of the brand's name in all concepts of a brand's placement; none for other placements."""
    known = vocabulary.statistics.topics
    rows = [vocabulary.row.get(text, -1) for text in concepts]
    if len(concepts) < 2 or any(row < 0 or known.conceptual[row] for row in rows):
        return frozenset()
    return frozenset.intersection(*(stems(text) for text in concepts))
