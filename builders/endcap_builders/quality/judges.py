"""Judges of whether a product fits a theme: the served check's score, the teacher, or an LLM at an endpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from endcap_builders.chat import StructuredChat
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
        value: 0 (does not fit) to 1 (fits); between: in part, or the judge is not certain; NaN without an answer.
        reason: in words; "" if the judge gives none.
    """

    value: float
    reason: str = ""


class FitJudge(Protocol):
    """Grades products of placements."""

    name: str

    @property
    def cost(self) -> float:
        """Of what it was asked in this run, in the currency of the prices; 0 for local ones."""
        ...

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


class _Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    reason: str
    grade: Literal[0, 1, 2]


_TASK = """\
You check the placements of an online shop. A placement is a row of products under a title. Say of one product whether
it belongs there. First give the reason in one short sentence, then the grade:
2: a shopper who reads the title expects such a product there.
1: it is related to the title, but a shopper would be surprised: an accessory, a neighbouring kind, a wrong size.
0: it has nothing to do with the title.
Judge the product only, not the title's style. Under a title that names no kind ("Popular now"), any product belongs."""


class EndpointJudge:
    """An LLM at an endpoint with the OpenAI chat API, with a rubric of three grades and reasons.

    Args:
        chat: requests the answers.
        products: product id -> what it is.
    """

    name = "openai"

    def __init__(self, chat: StructuredChat, products: Mapping[str, str]):
        self._chat, self._products = chat, products

    @property
    def cost(self) -> float:
        """Of this run's answers."""
        return self._chat.cost

    def grades(self, cases: Sequence[ThemeProduct]) -> list[Grade]:
        """The grade of each, halved, with its reason; NaN for an answer that stays malformed.

        Raises:
            BuildError: the endpoint fails after all attempts; what was answered before is kept.
        """
        texts = [
            f"Title: {case.theme}\nProduct: {self._products.get(case.product_id, case.product_id)}" for case in cases
        ]
        return [
            Grade(found.grade / 2, found.reason) if found else Grade(float("nan"))
            for found in self._chat.ask_all(_TASK, texts, _Verdict)
        ]
