"""The checks of placements: misfits that are planted into good placements, and placements with others' products."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from endcap_server.shop.kinds import Kinds
from endcap_server.shop.prompts import ThemeDraft, placement_text
from endcap_server.stages.fusion_parameters import FusionParameters
from endcap_server.stages.theme_products import of_keyword_category, of_named_kind

from endcap_builders.merchandising.examples import keyword_requests
from endcap_builders.merchandising.merchandiser import Merchandiser
from endcap_builders.quality.product_fit import RELEVANCE, ProductScores, pairs_of
from endcap_builders.quality.rates import Graded, grouped_rate, wilson
from endcap_builders.step import BuildContext, BuildError

ANOTHER, NEAR = "another kind", "a near kind"
_KEYWORDS, _CANDIDATES = 5, 60
_PRODUCTS, _PLANTS = 12, 4
_NEAREST = 5
_SHOWN = 5


@dataclass(frozen=True)
class Placement:
    """A good placement with products that do not belong to it.

    Attributes:
        theme: title and concepts.
        keywords: rows of its known keywords, int32 [k].
        text: what the cross-encoder reads.
        good: rows of its products, int32 [n].
        planted: kind of misfit -> rows, int32 [m].
        swapped: rows of the products of a placement about something else, int32 [n].
    """

    theme: ThemeDraft
    keywords: np.ndarray
    text: str
    good: np.ndarray
    planted: Mapping[str, np.ndarray]
    swapped: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """All products in question."""
        return np.unique(np.concatenate([self.good, *self.planted.values(), self.swapped]))


class ServedFit:
    """Which products fit their theme, as `fusion` decides it.

    Args:
        ctx: of the build.
        kinds: of the build.
        scores: computes relevance or cosine.
        parameters: of the served stage.
        placements: whose products are asked for.
    """

    def __init__(
        self,
        ctx: BuildContext,
        kinds: Kinds,
        scores: ProductScores,
        parameters: FusionParameters,
        placements: Sequence[Placement],
    ):
        self._kinds, self._store = kinds, scores.store
        by_relevance = scores.serves == RELEVANCE
        self.floor = parameters.relevance_floor if by_relevance else parameters.similarity_floor
        wanted: dict[str, list[np.ndarray]] = {}
        for placement in placements:
            wanted.setdefault(placement.text, []).append(placement.rows)
        pairs = pairs_of({text: np.unique(np.concatenate(rows)) for text, rows in wanted.items()})
        found = scores.relevance(pairs) if by_relevance else scores.similarity(pairs)
        keys = zip((pairs.queries[query] for query in pairs.query), pairs.product.tolist(), strict=True)
        self._score = dict(zip(keys, found.tolist(), strict=True))

    def scores(self, placement: Placement, rows: np.ndarray) -> np.ndarray:
        """Scores against the placement's text, float64 [m]."""
        return np.array([self._score[placement.text, row] for row in rows.tolist()])

    def belongs(self, placement: Placement, rows: np.ndarray) -> np.ndarray:
        """Products that fit by what they are, whatever their score: bool [m]."""
        named = of_named_kind(self._kinds, rows, placement.theme.concepts)
        return named | of_keyword_category(self._store, rows, placement.keywords)

    def __call__(self, placement: Placement, rows: np.ndarray) -> np.ndarray:
        """Which products fit: bool [m]."""
        fits: np.ndarray = self.belongs(placement, rows) | (self.scores(placement, rows) >= self.floor)
        return fits


def placements_of(merchandiser: Merchandiser, drafts: Sequence[ThemeDraft], seed: int) -> list[Placement]:
    """Good placements of themes, with misfits.

    The products are those that the theme's keywords find among the theme's own topics. Misfits are of other topics and
    of categories that none of the products has: of any topic, or of one of the topics that are most like the theme's.
    """
    rng = random.Random(seed)
    statistics = merchandiser.statistics
    store, topics = statistics.store, statistics.topics
    requests = keyword_requests(merchandiser, drafts, _KEYWORDS, _CANDIDATES, rng)
    good: list[tuple[ThemeDraft, np.ndarray, list[str], np.ndarray, frozenset[int]]] = []
    for request, chosen in zip(requests, merchandiser.choose_keywords(requests), strict=True):
        wanted = merchandiser.vocabulary.topics_of(request.theme.concepts)
        keywords = store.keywords.find(chosen)
        keywords = keywords[keywords >= 0].astype(np.int32)
        # Best of each keyword first, as serving takes them.
        found = dict.fromkeys(store.keyword_products[keywords].T.reshape(-1).tolist())
        rows = [row for row in found if row >= 0 and int(topics.of_product[row]) in wanted][:_PRODUCTS]
        if len(rows) == _PRODUCTS:
            good.append((request.theme, keywords, list(chosen), np.array(rows, np.int32), frozenset(wanted)))
    by_topic = [topic.rows for topic in topics.topics]
    similar = np.argsort(-(statistics.topic_vectors @ statistics.topic_vectors.T), axis=1, kind="stable")
    placements = []
    for theme, keywords, chosen, products, own in good:
        categories = set(store.category[products].tolist())
        others = [topic for topic in range(len(topics)) if topic not in own]
        near = [int(topic) for each in own for topic in similar[each] if int(topic) not in own][:_NEAREST]
        planted = {
            name: _drawn(rng, by_topic, chosen_topics, store.category, categories)
            for name, chosen_topics in ((ANOTHER, others), (NEAR, near))
        }
        elsewhere = [
            other for _, _, _, other, about in rng.sample(good, len(good))
            if not about & own and not categories & set(store.category[other].tolist())
        ][:1]  # fmt: skip
        if elsewhere and all(map(len, planted.values())):
            text = placement_text(theme.title, chosen)
            placements.append(Placement(theme, keywords, text, products, planted, elsewhere[0]))
    return placements


def placement_checks(
    ctx: BuildContext,
    scores: ProductScores,
    merchandiser: Merchandiser,
    drafts: Sequence[ThemeDraft],
    parameters: FusionParameters,
    most_false_drops: float,
    seed: int,
) -> dict[str, Any]:
    """Rates of the checks of placements.

    Returns:
        placements; serves; floor; belonging: share of the good products that fit by what they are; false_drops: of good
        products; planted: kind -> share found, whether by all checks together or by the score alone, with examples of
        misses; point: floor of the score for a share of false drops; refused: good placements; swapped: share of
        placements with others' products that are refused.

    Raises:
        BuildError: no theme has enough products.
    """
    placements = placements_of(merchandiser, drafts, seed)
    if not placements:
        raise BuildError(
            f"{ctx.build}: expected themes with {_PRODUCTS} products that their keywords find, got none of "
            f"{len(drafts)}; raise quality.placements"
        )
    kinds = Kinds.open(ctx.build, scores.store)
    fit = ServedFit(ctx, kinds, scores, parameters, placements)
    least = min(parameters.least_products, _PRODUCTS)
    good = list(_each(placements, lambda placement: placement.good))
    planted = {name: list(_each(placements, lambda placement, name=name: placement.planted[name]))
               for name in (ANOTHER, NEAR)}  # fmt: skip
    return {
        "placements": len(placements),
        "serves": scores.serves,
        "floor": fit.floor,
        "belonging": grouped_rate(*_rates(good, fit.belongs)),
        "false_drops": grouped_rate(*_rates(good, lambda placement, rows: ~fit(placement, rows))),
        "planted": {
            name: {
                "found": grouped_rate(*_rates(each, lambda placement, rows: ~fit(placement, rows))),
                "by_score": grouped_rate(
                    *_rates(each, lambda placement, rows: fit.scores(placement, rows) < fit.floor)
                ),
                "missed": _missed(scores, each, fit),
            }
            for name, each in planted.items()
        },
        "point": _graded(good, [*planted[ANOTHER], *planted[NEAR]], fit).operating_point(most_false_drops),
        "refused": _refused(placements, [placement.good for placement in placements], fit, least),
        "swapped": _refused(placements, [placement.swapped for placement in placements], fit, least),
    }


def _drawn(
    rng: random.Random,
    by_topic: Sequence[np.ndarray],
    topics: Sequence[int],
    category: np.ndarray,
    taken: set[int],
) -> np.ndarray:
    """Products of topics, of categories that are not taken: int32 [at most `_PLANTS`], each of a random topic."""
    found: dict[int, None] = {}
    for topic in rng.choices(topics, k=4 * _PLANTS) if topics else ():
        row = int(rng.choice(by_topic[topic].tolist()))
        if int(category[row]) not in taken or int(category[row]) < 0:
            found.setdefault(row)
        if len(found) == _PLANTS:
            break
    return np.array(list(found), np.int32)


Cases = list[tuple[int, Placement, np.ndarray]]
"""Number of a placement, the placement, and some of its products."""


def _each(placements: Sequence[Placement], rows: Any) -> Iterator[tuple[int, Placement, np.ndarray]]:
    for number, placement in enumerate(placements):
        yield number, placement, rows(placement)


def _rates(cases: Cases, hit: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which products are hit, and the placement of each."""
    hits = [np.asarray(hit(placement, rows), bool) for _, placement, rows in cases]
    groups = [np.full(len(rows), number) for number, _, rows in cases]
    return np.concatenate(hits), np.concatenate(groups)


def _graded(good: Cases, planted: Cases, fit: ServedFit) -> Graded:
    parts = [(fit.scores(placement, rows), fits, number) for cases, fits in ((good, True), (planted, False))
             for number, placement, rows in cases]  # fmt: skip
    return Graded(
        np.concatenate([score for score, _, _ in parts]),
        np.concatenate([np.full(len(score), fits) for score, fits, _ in parts]),
        np.concatenate([np.full(len(score), number) for score, _, number in parts]),
    )


def _refused(placements: Sequence[Placement], rows: Sequence[np.ndarray], fit: ServedFit, least: int) -> dict[str, Any]:
    """Share of placements with too few products that fit."""
    short = [int(fit(placement, own).sum()) < least for placement, own in zip(placements, rows, strict=True)]
    return wilson(sum(short), len(short))


def _missed(scores: ProductScores, cases: Cases, fit: ServedFit) -> list[dict[str, str]]:
    missed = [
        {"theme": placement.theme.title, "product": scores.store.titles[int(row)]}
        for _, placement, rows in cases
        for row in rows[fit(placement, rows)]
    ]
    return missed[:: max(1, len(missed) // _SHOWN)][:_SHOWN]
