"""Judges of whether a product fits a theme: the served check's score, the teacher, or an LLM at an endpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from endcap_builders.quality.product_fit import RELEVANCE, ProductScores
from endcap_builders.relevance.judge import Judge
from endcap_builders.relevance.pairs import make_pairs


@dataclass(frozen=True)
class ThemeProduct:
    """A product in question: does it fit the title of its placement?"""

    theme: str
    product_id: str


@dataclass(frozen=True)
class Grade:
    """What a judge says.

    Attributes:
        value: 0 (does not fit) to 1 (fits); between: in part, or the judge is not certain.
        reason: in words; "" if the judge gives none.
    """

    value: float
    reason: str = ""


class FitJudge(Protocol):
    """Grades products of placements."""

    name: str
    cost: float
    """Of what it was asked, in the currency of the prices; 0 for local ones."""

    def grades(self, cases: Sequence[ThemeProduct]) -> list[Grade]:
        """One grade for each case."""
        ...


class RulesJudge:
    """The served check: fits if the product's score against the title is at least the floor."""

    name, cost = "rules", 0.0

    def __init__(self, scores: ProductScores, relevance_floor: float, similarity_floor: float):
        self._scores = scores
        self._floor = relevance_floor if scores.serves == RELEVANCE else similarity_floor

    def grades(self, cases: Sequence[ThemeProduct]) -> list[Grade]:
        """1 or 0."""
        rows = self._scores.store.product_ids.find([case.product_id for case in cases])
        pairs = make_pairs([case.theme for case in cases], rows, np.full(len(cases), np.nan))
        by_relevance = self._scores.serves == RELEVANCE
        scores = self._scores.relevance(pairs) if by_relevance else self._scores.similarity(pairs)
        keys = zip((pairs.queries[query] for query in pairs.query), pairs.product.tolist(), strict=True)
        of_pair = dict(zip(keys, scores.tolist(), strict=True))
        return [
            Grade(float(of_pair[" ".join(case.theme.split()), row] >= self._floor))
            for case, row in zip(cases, rows.tolist(), strict=True)
        ]


class TeacherJudge:
    """The build's relevance teacher; the value is its expected grade."""

    name, cost = "teacher", 0.0

    def __init__(self, judge: Judge, scores: ProductScores):
        self._judge, self._scores = judge, scores

    def grades(self, cases: Sequence[ThemeProduct]) -> list[Grade]:
        """The expected grade of each."""
        rows = self._scores.store.product_ids.find([case.product_id for case in cases])
        values = self._judge.scores([case.theme for case in cases], rows.astype(np.int64))
        return [Grade(float(value)) for value in values]
