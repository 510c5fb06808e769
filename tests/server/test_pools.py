import numpy as np
import pytest
from endcap_server.stages.page import BLENDED, SIGNALS
from endcap_server.stages.pools import FreshShare, Products

PAGE = 10


def page_of(probability: np.ndarray, new: np.ndarray, factor: float) -> np.ndarray:
    """Whether each of the most valuable products is new: bool [PAGE]."""
    return new[np.argsort(-probability * np.where(new, factor, 1), kind="stable")[:PAGE]]


@pytest.mark.parametrize("least", [0.1, 0.35, 0.5, 1.0])
def test_the_most_valuable_products_have_the_share_of_new_ones(least):
    rng = np.random.default_rng(3)
    new = np.arange(60) >= 30
    probability = np.where(new, rng.uniform(1e-4, 0.01, 60), rng.uniform(0.05, 0.6, 60)).astype(np.float32)
    factor = FreshShare(PAGE, least).factor(probability, new, 2.0)
    assert factor > 2
    wanted = int(np.ceil(least * PAGE))
    assert page_of(probability, new, factor * 1.0001).sum() == wanted
    assert page_of(probability, new, factor * 0.9999).sum() < wanted


def test_new_products_weigh_what_the_ranker_says_where_that_is_enough():
    new = np.arange(40) % 2 == 0
    assert FreshShare(PAGE, 0.4).factor(np.linspace(0.5, 0.1, 40), new, 2.5) == 2.5
    assert FreshShare(PAGE, 0.0).factor(np.linspace(0.5, 0.1, 40), ~new, 2.5) == 2.5


@pytest.mark.parametrize(("repeats", "fresh"), [(0, 30), (5, 30), (30, 3), (30, 0), (0, 0)])
def test_too_few_of_either_kind_need_no_more_weight(repeats, fresh):
    new = np.arange(repeats + fresh) >= repeats
    probability = np.where(new, 0.001, 0.5)
    assert FreshShare(PAGE, 0.5).factor(probability, new, 2.0) == 2.0


def test_a_probability_of_zero_leaves_the_factor_finite():
    new = np.arange(40) >= 20
    factor = FreshShare(PAGE, 0.5).factor(np.where(new, 0.0, 0.5).astype(np.float32), new, 2.0)
    assert np.isfinite(factor)


def test_how_well_products_of_the_themes_kind_fit_does_not_order_them() -> None:
    likely = np.array([0.2, 0.8, 0.5, 0.3], np.float32)
    equal = np.ones(4, np.float32)
    products = Products(
        rows=np.arange(4, dtype=np.int32), likely=likely, value=likely, popularity=0 * equal, factors=equal,
        shown=np.ones(4, bool), vectors=np.eye(4, dtype=np.float32), brand=np.zeros(4, np.int32),
    )  # fmt: skip
    weights = np.zeros(BLENDED)
    weights[[SIGNALS.index("relevance"), SIGNALS.index("ranker")]] = 1.0, 1.0
    measured = {"relevance": np.array([0.9, 0.1, 0.4, np.nan], np.float32)}
    order = products.pool(np.arange(4), measured, weights)
    assert order.score.argsort()[::-1].tolist() == [0, 1, 2, 3]
    kind = products.pool(np.arange(4), measured, weights, belongs=np.array([False, True, True, True]))
    assert kind.score == pytest.approx((np.array([0.9, 0.9, 0.9, 0.9]) + likely) / 2)
    relevance = kind.signals[:, SIGNALS.index("relevance")]
    assert relevance[:3] == pytest.approx([0.9, 0.1, 0.4]), "what was measured is shown as it is"
    unjudged = products.pool(np.arange(4), {}, weights, belongs=np.ones(4, bool))
    assert unjudged.score == pytest.approx(likely)
