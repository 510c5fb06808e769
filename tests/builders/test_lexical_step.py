"""The step `lexical` on a catalogue: what it indexes, in the rows of the item store."""

from pathlib import Path

import polars as pl
import pytest
from endcap_builders.pipeline import Pipeline
from endcap_builders.step import BuildError
from endcap_builders.steps import all_steps
from endcap_server.engines.lexical import Boosts, LexicalIndex


def build(folder: Path, **settings: object) -> LexicalIndex:
    catalogue = folder / "catalogue"
    catalogue.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(
        {
            "product_id": ["b7", "a3", "c1"],
            "title": ["Garden chairs", "Oak table", "Lamp"],
            "description": ["<p>Weather&shy;proof</p>", "For eight guests", ""],
            "identifiers": ["", "TBL-0042|4053162123456", None],
        }
    ).write_parquet(catalogue / "products.parquet")
    steps = [step for step in all_steps() if step.name in ("catalogue", "lexical")]
    Pipeline(steps, folder / "build", catalogue, overrides={"lexical": settings}).run()
    return LexicalIndex(folder / "build" / "lexical", Boosts())


def test_every_column_is_found_by_its_words(tmp_path: Path) -> None:
    index = build(tmp_path)
    assert len(index) == 3
    for query, row in {"chair": 0, "guest": 1, "4053162123456": 1, "tbl 0042": 1, "C1": 2}.items():
        assert index.search(query, 3).rows.tolist() == [row], query
    assert index.search("p", 3).rows.tolist() == []


def test_language_and_length_are_options(tmp_path: Path) -> None:
    assert build(tmp_path / "none", language="").search("chair", 3).rows.tolist() == []
    assert build(tmp_path / "german", language="german").search("Lampen", 3).rows.tolist() == [2]
    assert build(tmp_path / "short", description_characters=0).search("guests", 3).rows.tolist() == []
    with pytest.raises(BuildError, match="language"):
        build(tmp_path / "wrong", language="klingon")
