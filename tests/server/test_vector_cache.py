"""Texts are encoded once while they are remembered."""

from collections.abc import Sequence

import numpy as np
from endcap_server.engines.vector_cache import LONGEST_TEXT, VectorCache


class Encoder:
    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.asked.append(list(texts))
        return np.array([[len(text), ord(text[0])] for text in texts], np.float32).reshape(len(texts), 2)


def test_only_new_texts_are_encoded_and_each_once() -> None:
    encoder = Encoder()
    cache = VectorCache(encoder, 10)
    first = cache.encode(["a", "bb", "a"])
    np.testing.assert_array_equal(first, [[1, 97], [2, 98], [1, 97]])
    np.testing.assert_array_equal(cache.encode(["bb", "ccc"]), [[2, 98], [3, 99]])
    cache.encode(["a"])
    assert encoder.asked == [["a", "bb"], ["ccc"]]


def test_the_text_asked_for_longest_ago_is_forgotten() -> None:
    encoder = Encoder()
    cache = VectorCache(encoder, 2)
    for text in ("a", "b", "a", "c", "a", "b"):
        cache.encode([text])
    assert encoder.asked == [["a"], ["b"], ["c"], ["b"]]


def test_no_memory_and_long_texts() -> None:
    for capacity, text in ((0, "a"), (10, "a" * (LONGEST_TEXT + 1))):
        encoder = Encoder()
        cache = VectorCache(encoder, capacity)
        assert cache.encode([text, text]).shape == (2, 2)
        cache.encode([text])
        assert len(encoder.asked) == 2
        assert len(cache) == 0


def test_use_is_counted() -> None:
    cache = VectorCache(Encoder(), 10)
    cache.encode(["a", "b", "a"])
    cache.encode(["b", "c"])
    assert cache.take_use() == (2, 3)
    assert cache.take_use() == (0, 0)


def test_nothing_to_encode() -> None:
    assert VectorCache(Encoder(), 5).encode([]).shape == (0, 2)
