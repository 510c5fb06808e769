"""Pairs are remembered, and a cross-encoder with a memory answers as one without."""

from pathlib import Path

import numpy as np
import pytest
import tiny_encoders
from endcap_server.engines.cross_encoder import CrossEncoder, CrossEncoderRequest, CrossEncoderResult
from endcap_server.engines.encoder_runtime import RuntimeOptions
from endcap_server.engines.score_cache import LONGEST_TEXT, ScoreCache
from endcap_server.shop.store import ItemStore

ROWS = np.array([[3, 1, -1], [2, 2, 7]], np.int32)


def test_known_pairs_are_found_and_others_are_not() -> None:
    cache = ScoreCache(100)
    cache.keep("rug", np.array([1, 7]), np.array([0.5, -2.0]))
    known = cache.look_up(["rug", "lamp"], ROWS)
    np.testing.assert_array_equal(known, [[np.nan, 0.5, np.nan], [np.nan] * 3])
    np.testing.assert_array_equal(cache.look_up(["lamp", "rug"], ROWS), [[np.nan] * 3, [np.nan, np.nan, -2.0]])


def test_texts_not_asked_for_are_forgotten_first() -> None:
    cache = ScoreCache(5)
    for text in "abc":
        cache.keep(text, np.array([1, 2]), np.zeros(2))
        cache.look_up(["a"], ROWS[:1])
    assert len(cache) == 4
    assert np.isnan(cache.look_up(["b"], ROWS[1:])).all()
    assert not np.isnan(cache.look_up(["a"], ROWS[:1])[0, 1])
    cache.keep("a", np.array([2, 9]), np.zeros(2))
    assert len(cache) == 5


@pytest.mark.parametrize(("capacity", "text"), [(0, "rug"), (100, "r" * (LONGEST_TEXT + 1))])
def test_what_is_not_kept(capacity: int, text: str) -> None:
    cache = ScoreCache(capacity)
    cache.keep(text, np.array([1]), np.zeros(1))
    assert len(cache) == 0


@pytest.fixture(scope="module")
def build(tiny_cross_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("build")
    (build / "cross_encoder").symlink_to(tiny_cross_encoder)
    tiny_encoders.write_store(build, build / "cross_encoder" / "tokenizer.json", tiny_encoders.random_titles(40))
    return build


def make_engine(build: Path, cache_pairs: int) -> CrossEncoder:
    runtime = RuntimeOptions(threads=2, precision="f32", token_budget=64)
    return CrossEncoder(build / "cross_encoder", ItemStore.open(build), runtime, cache_pairs)


def test_answers_are_those_of_an_engine_without_memory(build: Path) -> None:
    forgetful, engine = make_engine(build, 0), make_engine(build, 1000)
    rng = np.random.default_rng(2)
    texts = ["red lamp", "garden hose", "wool rug"]
    for _ in range(6):
        chosen = [texts[i] for i in rng.integers(0, 3, 2)]
        requests = [CrossEncoderRequest(chosen, rng.integers(-1, 40, (2, 7)).astype(np.int32)) for _ in range(2)]
        for one, two in zip(engine.run(requests), forgetful.run(requests), strict=True):
            assert isinstance(one, CrossEncoderResult)
            assert isinstance(two, CrossEncoderResult)
            np.testing.assert_allclose(one.logits, two.logits, atol=1e-4)
            np.testing.assert_allclose(one.margins, two.margins, atol=1e-4)


def test_use_is_counted() -> None:
    cache = ScoreCache(100)
    cache.keep("lamp", np.array([1, 2]), np.array([0.5, 0.25]))
    cache.look_up(["lamp", "chair"], np.array([[1, 2, 3, -1], [1, -1, -1, -1]]))
    assert cache.take_use() == (2, 2)
    assert cache.take_use() == (0, 0)


def test_a_known_pair_is_not_read_again(build: Path) -> None:
    engine = make_engine(build, 1000)
    request = CrossEncoderRequest(["red lamp"], np.array([[1, 2, 3]], np.int32))
    engine.run([request])
    read: list[int] = []
    run = engine._runtime.run

    def spy(lengths: np.ndarray, *rest: object) -> object:
        read.append(len(lengths))
        return run(lengths, *rest)

    engine._runtime.run = spy  # type: ignore[method-assign]
    engine.run([request, CrossEncoderRequest(["red lamp"], np.array([[3, 4, 5]], np.int32))])
    assert read == [2]


def test_what_was_scored_before_the_deadline_is_an_error_all_the_same(build: Path) -> None:
    (late,) = make_engine(build, 1000).run([CrossEncoderRequest(["red lamp"], np.array([[1, 2]], np.int32), 1)])
    assert isinstance(late, TimeoutError)
    assert "2 of 2 pairs" in str(late)
