"""Which products a deployment knows: those of the build, and of the generations that went live."""

import shutil
from pathlib import Path

import pytest
from endcap_server.facts.catalogues import Catalogues
from endcap_server.facts.place import Place
from endcap_server.serving.generation import StateFolder
from endcap_server.shop.facts import FOLDER
from endcap_server.shop.facts_journal import FactsError
from endcap_server.shop.store import write_columns
from tiny_shop import build_shop


def test_products_of_a_new_generation_are_known_once_it_is_live(tmp_path: Path) -> None:
    build = build_shop(tmp_path / "build")
    now = 0.0
    catalogues = Catalogues(Place.find(build, None), clock=lambda: now)
    assert catalogues.known().products(["p1", "q1"]) == {"p1"}
    state = StateFolder(build / "serving" / "8001")
    snapshot = state.snapshot(2)
    shutil.copytree(build / "store", snapshot / "store")
    shutil.copytree(build / "index", snapshot / "index")
    write_columns(snapshot / "store", product_ids=[f"q{row}" for row in range(64)])
    assert catalogues.known().products(["q1"]) == set()
    state.journal.write("served", 2)
    now = 5.0
    assert catalogues.known().products(["p1", "q1", "r1"]) == {"p1", "q1"}


def test_facts_lie_in_the_build_unless_another_folder_is_named(tmp_path: Path) -> None:
    assert Place.find(tmp_path, None).folder == tmp_path / FOLDER
    assert Place.find(tmp_path, tmp_path / "other").folder == tmp_path / "other"
    with pytest.raises(FactsError, match="run endcap build"):
        list(Place.find(tmp_path, None).stores())
