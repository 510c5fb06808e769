"""Kinds of products: what a shopper is described with."""

import numpy as np
from endcap_server.shop.columns import StringColumn, save_array
from endcap_server.shop.kind_lists import kind_lists
from endcap_server.shop.kinds import FOLDER, Kinds
from endcap_server.shop.prompts import due
from endcap_server.shop.store import ItemStore

from server import tiny_shop


def test_kinds_are_the_builds_topics_and_else_leaf_categories(tmp_path):
    store = ItemStore.open(tiny_shop.build_shop(tmp_path))
    assert set(Kinds.open(tmp_path, store).labels(np.arange(len(store)))) >= {"lamps", "rugs"}
    topic = np.full(len(store), -1, np.int32)
    topic[:4] = 0
    StringColumn.write(tmp_path / FOLDER, "topics", ["reading lights"])
    save_array(tmp_path / FOLDER, "product_topic", topic, np.int32)
    save_array(tmp_path / FOLDER, "topic_restocked", [True], np.bool_)
    save_array(tmp_path / FOLDER, "topic_affinity", [[0.0]], np.float32)
    kinds = Kinds.open(tmp_path, store)
    assert kinds.labels(np.array([0, 4, 8])) == ["reading lights", "lamps", "rugs"]
    assert kinds.restocked == {"reading lights"}
    assert kinds.favourites(np.array([8, 0, 1]), 2, 20.0) == ["reading lights", "rugs"]
    assert kinds.due(np.array([0, 8, 1, 9, 10]), 3) == ["reading lights"]
    assert kinds.lists(["rugs", "reading lights"], ["lamps"]) == [["rugs", "reading lights", "lamps"]]
    assert kinds.lists(["rugs", "a keyword"], []) == [["rugs"], ["a keyword"]]


NAMES = ["milk", "bread", "soup", "tea", "rice", "beans", "milks"]
NOTHING = np.zeros((len(NAMES), len(NAMES)), np.float32)


def test_two_kinds_that_were_bought_stand_with_one_that_is_new():
    assert kind_lists([0, 1, 2, 3], [4, 5], NAMES, NOTHING) == [[0, 1, 4], [2, 3, 5]]
    assert kind_lists([], [4, 5], NAMES, NOTHING) == [[4, 5]]
    assert kind_lists([], [], NAMES, NOTHING) == []


def test_lists_have_no_single_kind_where_two_pairs_do():
    assert kind_lists([0, 1, 2, 3], [], NAMES, NOTHING) == [[0, 1], [2, 3]]
    assert kind_lists([0], [], NAMES, NOTHING) == [[0]]


def test_what_goes_together_is_one_list():
    affinity = NOTHING[:5, :5].copy()
    affinity[0, 3] = affinity[0, 4] = 2.0
    assert kind_lists([0, 1, 2, 3, 4, 5], [], NAMES, affinity) == [[0, 3, 4], [1, 2, 5]]


def test_of_two_names_for_one_thing_the_first_stays():
    assert kind_lists([0, 6, 1], [6, 2], NAMES, NOTHING) == [[0, 1, 2]]


def test_due_is_what_was_bought_twice_and_not_just_now():
    history = ["milk", "tv", "milk", "tv", "bread", "bread", "eggs", "milk"]
    assert due(history, {"milk", "bread", "eggs"}, 3) == []
    assert due([*history, "rice"], {"milk", "bread", "eggs"}, 3) == []
    assert due([*history, "rice", "tea"], {"milk", "bread", "eggs"}, 3) == ["milk"]
