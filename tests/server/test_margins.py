import numpy as np
import pytest
from endcap_server.shop.margins import pairwise_margins
from hypothesis import given
from hypothesis import strategies as st


def reference(scores: list[float], temperature: float) -> list[float]:
    wins = []
    for i, own in enumerate(scores):
        others = [1 / (1 + np.exp(-(own - other) / temperature)) for j, other in enumerate(scores) if j != i]
        wins.append(float(np.mean(others)) if others else 0.5)
    return wins


@given(scores=st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=30), temperature=st.floats(0.25, 4, width=32))
def test_margins_equal_the_double_loop(scores: list[float], temperature: float) -> None:
    margins = pairwise_margins(np.array([scores], np.float32), temperature)
    np.testing.assert_allclose(margins[0], reference(scores, temperature), atol=2e-6)
    assert margins.dtype == np.float32


def test_groups_are_independent_and_padding_is_left_out() -> None:
    scores = np.array([[1.0, np.nan, 3.0], [2.0, 2.0, 2.0], [5.0, np.nan, np.nan]], np.float32)
    margins = pairwise_margins(scores, 1.0)
    assert np.isnan(margins).tolist() == np.isnan(scores).tolist()
    np.testing.assert_allclose(margins[0, [0, 2]], reference([1.0, 3.0], 1.0), atol=1e-6)
    np.testing.assert_allclose(margins[1], 0.5, atol=1e-6)
    assert margins[2, 0] == 0.5


def test_valid_wins_over_nan() -> None:
    margins = pairwise_margins(np.array([[1.0, 9.0, 3.0]]), 1.0, np.array([[True, False, True]]))
    np.testing.assert_allclose(margins[0, [0, 2]], reference([1.0, 3.0], 1.0), atol=1e-6)
    assert np.isnan(margins[0, 1])


def test_huge_differences_do_not_overflow() -> None:
    margins = pairwise_margins(np.array([[1e6, -1e6, 0.0]]), 1e-3)
    assert margins[0].tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_is_checked(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature: expected a number above 0"):
        pairwise_margins(np.zeros((1, 2)), temperature)


def test_no_texts() -> None:
    assert pairwise_margins(np.zeros((0, 5)), 1.0).shape == (0, 5)
    assert pairwise_margins(np.zeros((2, 0)), 1.0).shape == (2, 0)
