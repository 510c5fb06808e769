"""Facts from files: what is taken, and what each wrong record is answered with."""

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from endcap_server.facts.command import add_facts_command
from endcap_server.facts.records import KnownNames, check_records
from endcap_server.shop.facts import FOLDER
from endcap_server.shop.facts_state import FactsState
from endcap_server.shop.store import ItemStore
from tiny_shop import build_shop

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shop(tmp_path_factory.mktemp("shop"), out_of_stock=(1,))


@pytest.fixture
def facts(build: Path, tmp_path: Path) -> Callable[..., int]:
    """Runs `endcap facts` on the build, with its own folder of facts."""

    def run(*words: str) -> int:
        parser = argparse.ArgumentParser()
        add_facts_command(parser.add_subparsers())
        parsed = parser.parse_args(["facts", *words, "--build", str(build), "--facts", str(tmp_path / FOLDER)])
        return int(parsed.run(parsed))

    return run


RECORDS: list[dict[str, Any]] = [
    {"product_id": "p1", "stock": 12, "price": 3.5, "time": "2026-11-01T10:00:00Z"},
    {"product_id": "p2", "in_stock": 0.5},
    {"product_id": "p3", "stock": 0},
    {"rule": "ban", "subject": "brand:ostara", "reason": "recall", "end": "2099-01-01T00:00:00"},
    {"rule": "boost", "subject": "category:Garden", "factor": 1.5, "reason": "spring"},
]


def written(name: str, folder: Path) -> Path:
    path, table = folder / name, pl.DataFrame(RECORDS, infer_schema_length=None)
    if name.endswith("csv"):
        table.write_csv(path)
    elif name.endswith("parquet"):
        table.with_columns(pl.col("time").str.to_datetime(time_zone="UTC")).write_parquet(path)
    else:
        path.write_text("\n\n".join(map(json.dumps, RECORDS)), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["facts.csv", "facts.parquet", "facts.jsonl"])
def test_every_kind_of_file_means_the_same(name: str, facts: Callable[..., int], tmp_path: Path) -> None:
    assert facts("set", str(written(name, tmp_path))) == 0
    state = FactsState.read(tmp_path / FOLDER)
    assert {product: {key: value for key, (value, _) in state.of(product).items()} for product in state.ids} == {
        "p1": {"in_stock": 1.0, "price": 3.5},
        "p2": {"in_stock": 0.5},
        "p3": {"in_stock": 0.0},
    }
    assert state.of("p1")["price"][1] == 1793527200.0
    assert abs(state.of("p2")["in_stock"][1] - time.time()) < 600
    assert [(rule.rule, rule.subject, rule.end) for rule in state.rules.values()] == [
        ("ban", "brand:ostara", 4070908800.0),
        ("boost", "category:Garden", None),
    ]


@pytest.mark.parametrize("text", ["product_id,price\np1,4\n", '{"product_id": "p1", "price": 4}\n'])
def test_the_standard_input_is_csv_or_json_lines(
    text: str, facts: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert facts("set", "-") == 0
    assert FactsState.read(tmp_path / FOLDER).of("p1")["price"][0] == 4


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"product_id": "p99", "stock": 1},
            "product_id: expected a product of the catalogue that is served, got",
        ),
        ({"product_id": "p1", "price": -1}, "price: expected greater than or equal to 0, got -1"),
        ({"product_id": "p1", "price": "cheap"}, "price: expected a valid number"),
        ({"product_id": "p1", "price": float("nan")}, "price: expected a finite number"),
        ({"product_id": "p1", "stock": -3}, "stock: expected greater than or equal to 0, got -3"),
        ({"product_id": "p1", "in_stock": 2}, "in_stock: expected less than or equal to 1, got 2"),
        ({"product_id": "p1", "price": 1, "time": NOW + 3600}, "time: expected a time that is not in the future"),
        ({"product_id": "p1", "price": 1, "time": "soon"}, "time: expected a valid datetime"),
        ({"product_id": "p1", "stock": 1, "in_stock": 1}, "stock: expected stock or in_stock, got both"),
        ({"product_id": "p1"}, "record: expected stock, in_stock, price or a column, got only 'p1'"),
        ({"price": 1}, "product_id: expected a value, got none"),
        ({"product_id": "p1", "prise": 1}, "record: expected the fields product_id, stock, in_stock, price, time"),
        ({"rule": "hide", "subject": "brand:Ostara", "reason": "r"}, "rule: expected 'pin', 'boost', 'bury', 'ban'"),
        ({"rule": "ban", "subject": "brand:Ostara"}, "reason: expected a value, got none"),
        ({"rule": "ban", "subject": "brand:Acme", "reason": "r"}, "subject: expected a brand of the catalogue"),
        ({"rule": "ban", "subject": "shop:x", "reason": "r"}, "record: expected as subject of ban product:ID or"),
        ({"rule": "pin", "subject": "brand:Ostara", "reason": "r"}, "expected as subject of pin product:ID, got"),
        (
            {"rule": "boost", "subject": "brand:Ostara", "reason": "r"},
            "boost a number from 1 to 100, got None",
        ),
        ({"rule": "bury", "subject": "brand:Ostara", "factor": 2, "reason": "r"}, "from 0 to 1, got 2.0"),
        ({"rule": "ban", "subject": "brand:Ostara", "factor": 2, "reason": "r"}, "expected no factor for ban, got 2"),
        ({"rule": "price", "subject": "price:cheap", "reason": "r"}, "expected as subject of price price:LEAST..MOST"),
        ({"rule": "price", "subject": "price:9..2", "reason": "r"}, "expected as subject of price price:LEAST..MOST"),
        ({"rule": "price", "subject": "price:..", "reason": "r"}, "expected as subject of price price:LEAST..MOST"),
        ({"rule": "campaign", "subject": f"campaign:{'x' * 201}", "reason": "r"}, "a campaign of at most 200"),
        ({"rule": "require", "subject": f"title:{'x' * 61}", "reason": "r"}, "a title of at most 60 characters"),
        ({"rule": "rewrite", "subject": "title:A", "reason": "r"}, "expected as other title 1 to 60 characters"),
        ({"rule": "rewrite", "subject": "title:A", "to": " ", "reason": "r"}, "expected as other title 1 to 60"),
        ({"rule": "ban", "subject": "title:A", "to": "B", "reason": "r"}, "expected no other title for ban, got 'B'"),
        (
            {"rule": "ban", "subject": "brand:Ostara", "start": 5000000000, "end": 4000000000, "reason": "r"},
            "an end after the start, got one before it",
        ),
    ],
)
def test_each_wrong_record_is_named(record: dict[str, Any], message: str, build: Path) -> None:
    known = KnownNames([ItemStore.open(build)])
    found = check_records([(7, record), (8, {"product_id": "p1", "price": 1})], known, clock=lambda: NOW)
    assert [problem.row for problem in found.problems] == [7]
    assert message in str(found.problems[0])
    assert len(found.changes) == 1


def test_a_clock_that_is_somewhat_ahead_does_not_hold_off_the_next_change(build: Path) -> None:
    records = [(1, {"product_id": "p1", "price": 1, "time": NOW + 50}), (2, {"product_id": "p2", "price": 1})]
    found = check_records(records, KnownNames([ItemStore.open(build)]), clock=lambda: NOW)
    assert [change.time for change in found.changes] == [NOW, NOW]


def test_a_file_is_taken_whole_or_not_at_all(
    facts: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text('{"product_id": "p1", "price": 1}\nnot json\n[1]\n{"product_id": "p2", "price": -1}\n', "utf-8")
    assert facts("set", str(path)) == 1
    errors = capsys.readouterr().err
    assert "row 2, record: expected a JSON object, got text that is not JSON" in errors
    assert "row 3, record: expected a JSON object, got [1]" in errors
    assert "row 4, price: expected greater than or equal to 0" in errors
    assert "nothing was taken" in errors
    assert not FactsState.read(tmp_path / FOLDER).ids
    assert facts("set", str(path), "--keep-good") == 1
    assert FactsState.read(tmp_path / FOLDER).of("p1")["price"][0] == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("facts.xlsx", b"x", "expected a name ending in .parquet, .csv or .jsonl"),
        ("facts.parquet", b"x", "expected a Parquet file"),
        ("facts.csv", b"product_id,price\np1,\xff\n", "expected a readable UTF-8 file"),
        ("facts.csv", b"product_id,price\np1,1,2\n", "row 2, record: expected 2 values"),
        ("facts.csv", b"product_id,price\np1\n", "row 2, record: expected 2 values"),
    ],
)
def test_files_that_cannot_be_read(
    name: str,
    content: bytes,
    message: str,
    facts: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / name).write_bytes(content)
    assert facts("set", str(tmp_path / name)) == 1
    assert message in capsys.readouterr().err
    assert facts("set", str(tmp_path / "missing.csv")) == 1


def test_show_has_the_catalogue_the_facts_and_the_rules(
    facts: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts("set", str(written("facts.jsonl", tmp_path)))
    capsys.readouterr()
    assert facts("show", "p1", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["values"]["price"] == {"value": 3.5, "since": "2026-11-01T10:00:00.000Z", "from": "facts"}
    assert shown["values"]["in_stock"]["value"] == 1
    facts("show", "p20", "--json")
    other = json.loads(capsys.readouterr().out)
    assert other["values"]["price"] == {"value": 9.5, "from": "catalogue"}
    facts("show", "--json")
    assert len(json.loads(capsys.readouterr().out)["rules"]) == 2
    assert facts("show", "p1") == facts("show") == 0
    assert "price: 3.5 (facts, since 2026-11-01T10:00:00.000Z)" in capsys.readouterr().out
    assert facts("show", "nothing") == 1


def test_a_rule_is_removed_by_its_kind_and_subject(facts: Callable[..., int], tmp_path: Path) -> None:
    facts("set", str(written("facts.jsonl", tmp_path)))
    path = tmp_path / "remove.jsonl"
    path.write_text('{"rule": "boost", "subject": "category: garden", "remove": true}', encoding="utf-8")
    assert facts("set", str(path)) == 0
    assert [rule.rule for rule in FactsState.read(tmp_path / FOLDER).rules.values()] == ["ban"]


def test_rules_show_whom_they_are_about(build: Path) -> None:
    store = ItemStore.open(build)
    known = KnownNames([store])
    found = check_records(enumerate(RECORDS, 1), known).rules
    rows = np.flatnonzero(store.brand == store.brands.index("Ostara"))
    assert found[0].rule.names("p1", store.brands[store.brand[rows[0]]], "home > lamps")
    assert found[1].rule.names("p1", "", "garden > tools")
    assert not found[1].rule.names("p1", "", "gardening")


def test_a_column_is_taken_from_a_catalogue_and_then_part_of_records(
    facts: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pl.DataFrame({"product_id": ["p1", "p2", "p3"], "title": ["a", "b", "c"], "price": [1.0, 2.0, 3.0]})
    table.with_columns(margin=pl.Series([0.5, None, 0.25])).write_parquet(tmp_path / "products.parquet")
    records = tmp_path / "records.jsonl"
    records.write_text(
        '{"product_id": "p1", "margin": 0.75}\n'
        '{"rule": "boost", "subject": "column:margin", "factor": 2, "reason": "campaign"}\n',
        encoding="utf-8",
    )
    assert facts("set", str(records)) == 1
    errors = capsys.readouterr().err
    assert "got 'margin'" in errors
    assert "row 2, subject: expected one of the columns (there are none), got 'margin'" in errors
    assert facts("set", str(tmp_path / "products.parquet"), "--column", "margin") == 0
    state = FactsState.read(tmp_path / FOLDER)
    assert state.own_columns == ["margin"]
    assert state.of("p1").keys() == {"margin"}, "prices of the file were taken, too"
    assert facts("set", str(records)) == 0
    assert FactsState.read(tmp_path / FOLDER).of("p1")["margin"][0] == 0.75
    records.write_text('{"product_id": "p1", "margin": "high"}', encoding="utf-8")
    assert facts("set", str(records)) == 1
    assert "margin: expected a valid number" in capsys.readouterr().err
    for name in ("price", "Margin"):
        with pytest.raises(SystemExit):
            facts("set", str(records), "--column", name)
    assert "expected a name of small letters" in capsys.readouterr().err
