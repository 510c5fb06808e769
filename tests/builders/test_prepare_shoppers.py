"""Files of shoppers: what is read, what is left out, what is refused."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from endcap_builders.prepare.errors import PrepareError
from endcap_builders.prepare.shoppers import Shopper, ShopperFile

GOOD = {"shopper": "ada", "history": ["p1", "p2"], "session": ["tea"]}


def file_of(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "shoppers.jsonl"
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(texts))
    return path


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "expected a JSON object, got Expecting property name"),
        (b"\xff\xfe", "expected a JSON object, got"),
        (b"[" * 100_000, "expected a JSON object, got maximum recursion depth"),
        (["ada"], "expected a JSON object, got list"),
        ({"history": []}, "shopper: expected a text of 1 to 128 bytes, got None"),
        ({"shopper": 7, "history": []}, "shopper: expected a text of 1 to 128 bytes, got 7"),
        ({"shopper": "", "history": []}, "shopper: expected"),
        ({"shopper": "a" * 129, "history": []}, "shopper: expected"),
        ({"shopper": "ada"}, "history: expected a list of at most 10000 product ids, got None"),
        ({"shopper": "ada", "history": "p1"}, "history: expected"),
        ({"shopper": "ada", "history": [1]}, "history: expected"),
        ({"shopper": "ada", "history": ["p" * 257]}, "history: expected product ids of at most 256 bytes"),
        ({"shopper": "ada", "history": [], "session": ["x" * 513]}, "session: expected at most 100 texts"),
        ({"shopper": "ada", "history": [], "basket": []}, "expected shopper, history and session, got 'basket'"),
    ],
)
def test_a_wrong_line_is_left_out_and_said(tmp_path: Path, line: Any, problem: str) -> None:
    file = ShopperFile.check(file_of(tmp_path, GOOD, line, {"shopper": "eve", "history": []}))
    assert (len(file), file.left_out) == (2, 1)
    assert file.problems[0].startswith(f"line 2: {problem}")
    assert list(file) == [Shopper("ada", ("p1", "p2"), ("tea",)), Shopper("eve", ())]
    with pytest.raises(PrepareError, match="expected a shopper in each line or row, got line 1"):
        ShopperFile.check(file_of(tmp_path, line))


def test_the_last_line_of_a_shopper_counts(tmp_path: Path) -> None:
    file = ShopperFile.check(file_of(tmp_path, GOOD, {"shopper": "eve", "history": []}, {**GOOD, "history": ["p9"]}))
    assert (len(file), file.repeated) == (2, 1)
    assert [each.key for each in file] == ["eve", "ada"]
    assert list(file)[1].history == ("p9",)


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "shoppers.parquet"
    frame = pl.DataFrame({"shopper": ["ada", None], "history": [["p1"], ["p2"]], "other": [1, 2]})
    frame.write_parquet(path)
    file = ShopperFile.check(path)
    assert list(file) == [Shopper("ada", ("p1",))]
    assert file.problems == ["line 2: shopper: expected a text of 1 to 128 bytes, got None"]
    frame.drop("history").write_parquet(path)
    with pytest.raises(PrepareError, match=r"expected the columns shopper and history .* got no history"):
        ShopperFile.check(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(PrepareError, match="expected a Parquet file"):
        ShopperFile.check(path)
    with pytest.raises(PrepareError, match="cannot be read: No such file"):
        ShopperFile.check(tmp_path / "none.jsonl")
