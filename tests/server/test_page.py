import numpy as np
from endcap_server.stages.page import BLENDED, SIGNALS, Pool, blend, diversify, fill
from hypothesis import given, settings
from hypothesis import strategies as st

_WEIGHTS = {"margin": 0.25, "relevance": 0.2, "similarity": 0.1, "ranker": 0.35, "popularity": 0.05, "retrieval": 0.05}
WEIGHTS = np.array([_WEIGHTS.get(name, 0.0) for name in SIGNALS[:BLENDED]])


def make_pool(
    score: list[float], brand: list[int] | None = None, vectors: np.ndarray | None = None, start: int = 0
) -> Pool:
    size = len(score)
    if vectors is None:
        vectors = np.eye(max(size, 1), dtype=np.float32)[:size]
    signals = np.zeros((size, len(SIGNALS)), np.float32)
    return Pool(
        np.arange(start, start + size, dtype=np.int32),
        signals,
        np.array(score, np.float32),
        np.ones(size, bool),
        vectors.astype(np.float32),
        np.array(brand if brand is not None else [-1] * size, np.int32),
    )


def row(**known: float) -> np.ndarray:
    signals = np.full(len(SIGNALS), np.nan, np.float32)
    for name, value in known.items():
        signals[SIGNALS.index(name)] = value
    return signals


def test_blend_is_the_weighted_mean_of_what_is_known() -> None:
    full = row(margin=1, relevance=1, similarity=1, ranker=1, popularity=1, retrieval=1)
    some = row(margin=0.5, relevance=0.5, similarity=0.5, retrieval=0.5)
    np.testing.assert_allclose(blend(np.stack([full, some]), WEIGHTS), [1, 0.5], rtol=1e-6)
    assert blend(np.stack([row()]), WEIGHTS).tolist() == [0]


def test_blend_without_the_cross_encoder_follows_retrieval() -> None:
    first = row(similarity=0.5, ranker=0.5, popularity=0.5, retrieval=1)
    second = row(similarity=0.5, ranker=0.5, popularity=0.5, retrieval=0)
    difference = np.diff(blend(np.stack([second, first]), WEIGHTS))[0]
    np.testing.assert_allclose(difference, 0.25 + 0.2 + 0.05, rtol=1e-6)


def test_diversity_parts_twins() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    chosen, lost = diversify(make_pool([0.9, 0.89, 0.8], vectors=vectors), 3, 0.2, 0.5, None)
    assert chosen.tolist() == [0, 2, 1]
    np.testing.assert_allclose(lost, [0, 0, 0.2], atol=1e-6)


def test_brand_cap_counts_pins_and_spares_products_without_brand() -> None:
    pool = make_pool([0.9, 0.8, 0.7, 0.6, 0.5], brand=[1, 1, 2, -1, -1])
    assert diversify(pool, 5, 0, 0.5, 1)[0].tolist() == [0, 2, 3, 4]
    assert diversify(pool, 5, 0, 0.5, 1, taken_brands=[1])[0].tolist() == [2, 3, 4]


def test_pins_lead_in_their_order() -> None:
    pins = make_pool([0.1, 0.3], start=100)
    shelf = fill(pins, make_pool([0.9, 0.8]), 3, 0, 0.5, None)
    assert shelf.rows.tolist() == [100, 101, 0]
    np.testing.assert_allclose(shelf.score, [0.9, 0.9, 0.9])
    assert fill(pins, make_pool([]), 1, 0, 0.5, None).rows.tolist() == [100]


UNIT = st.floats(0, 1, width=32)


@st.composite
def pools(draw: st.DrawFn, start: int = 0) -> Pool:
    size = draw(st.integers(0, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    vectors = rng.standard_normal((size, 4))
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    score = draw(st.lists(st.floats(0, 100, width=32), min_size=size, max_size=size))
    brand = draw(st.lists(st.integers(-1, 3), min_size=size, max_size=size))
    return make_pool(score, brand, vectors, start)


@settings(max_examples=200)
@given(
    pins=pools(start=500),
    pool=pools(),
    count=st.integers(1, 20),
    weight=st.floats(0, 3),
    threshold=st.floats(-1, 0.9),
    cap=st.none() | st.integers(1, 4),
)
def test_shelves(pins: Pool, pool: Pool, count: int, weight: float, threshold: float, cap: int | None) -> None:
    shelf = fill(pins, pool, count, weight, threshold, cap)
    assert len(shelf.rows) == len(shelf.score) == len(shelf.signals) <= count
    assert len(set(shelf.rows.tolist())) == len(shelf.rows)
    assert (np.diff(shelf.score) <= 0).all()
    assert np.isfinite(shelf.score).all()
    leading = min(count, len(pins.rows))
    assert shelf.rows[:leading].tolist() == pins.rows[:leading].tolist()
    brands = [int(pool.brand[r]) for r in shelf.rows[leading:].tolist()]
    if cap is None:
        assert len(shelf.rows) == min(count, leading + len(pool.rows))
    else:
        for brand in set(brands) - {-1}:
            pinned = int((pins.brand[:leading] == brand).sum())
            assert brands.count(brand) <= max(0, cap - pinned)


@given(signals=st.lists(st.lists(UNIT | st.just(float("nan")), min_size=BLENDED, max_size=BLENDED), max_size=5))
def test_blend_stays_in_range(signals: list[list[float]]) -> None:
    full = np.zeros((len(signals), len(SIGNALS)), np.float32)
    full[:, :BLENDED] = np.array(signals, np.float32).reshape(len(signals), BLENDED)
    score = blend(full, WEIGHTS)
    assert ((score >= 0) & (score <= 1 + 1e-6)).all()
