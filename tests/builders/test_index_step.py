import numpy as np
from endcap_builders.steps.index import best_products, majority_category, nearest_by_product


def test_nearest_by_product_equals_sorting_whatever_the_block() -> None:
    rng = np.random.default_rng(1)
    searches, vectors = rng.standard_normal((5, 8)).astype(np.float32), rng.standard_normal((97, 8)).astype(np.float16)
    expected = np.argsort(-(searches @ vectors.astype(np.float32).T), axis=1)[:, :10]
    for block in (10, 13, 97, 1000):
        np.testing.assert_array_equal(nearest_by_product(searches, vectors, 10, block), expected)
    assert nearest_by_product(searches, vectors[:3], 10).shape == (5, 3)


def test_best_products_puts_those_with_all_words_first() -> None:
    vectors = np.array([[1.0, 0], [0.8, 0.6], [0, 1], [0.6, 0.8]])
    found = best_products(np.array([1.0, 0]), np.array([0, 1]), np.array([2, 3]), vectors, drop=0.25)
    assert found.tolist() == [3, 2, 0, 1]


def test_of_alike_products_the_popular_one_comes_first() -> None:
    vectors = np.array([[1.0, 0], [0.96, 0.28], [0.98, 0.2]])
    agreeing = np.array([0, 1, 2])
    popular = best_products(np.array([1.0, 0]), agreeing, agreeing, vectors, 0.25, np.array([0.0, 0.1, 0.0]))
    assert popular.tolist() == [1, 0, 2]


def test_best_products_drops_what_is_far_and_does_not_agree() -> None:
    vectors = np.array([[1.0, 0], [0.8, 0.6], [0, 1]])
    found = best_products(np.array([1.0, 0]), np.array([0, 1, 2]), np.zeros(0, np.int32), vectors, drop=0.25)
    assert found.tolist() == [0, 1]


def test_majority_category() -> None:
    category = np.array([4, 4, 5, -1], np.int32)
    rows = np.array([[0, 1, 2, -1], [0, 2, -1, -1], [3, -1, -1, -1], [-1, -1, -1, -1]])
    assert majority_category(category, rows, 0.5).tolist() == [4, -1, -1, -1]
