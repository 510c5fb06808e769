"""`endcap outcomes`: attribution, rates with intervals, the comparison of generations, drift, the report, errors."""

import argparse
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from endcap_builders.catalogue import CatalogueError
from endcap_builders.outcomes.attribution import attribute
from endcap_builders.outcomes.cli import add_outcomes_command
from endcap_builders.outcomes.command import OutcomesRequest, run_outcomes
from endcap_builders.outcomes.drift import stability
from endcap_builders.outcomes.errors import OutcomesError
from endcap_builders.outcomes.events import read_events
from endcap_builders.outcomes.experiment import Arm, compare
from endcap_builders.outcomes.figures import rates
from endcap_builders.outcomes.shown import read_shown, tables_of
from endcap_builders.outcomes.trial import find_trial, run_trial
from endcap_server.exposures.record import SECRET_FILE, ShopperKeys
from endcap_server.exposures.segments import schema
from pyarrow import parquet
from rich.console import Console

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
SECRET = b"of the deployment"
Placement = tuple[str, str, Sequence[str], Sequence[str]]
HOUR = timedelta(hours=1)
SOUP: Placement = ("Soup", "generated", ("soup", "broth"), ("a", "b"))
TEA: Placement = ("Tea", "classic:popular", (), ("b", "c"))


def page(
    name: str, shopper: str, time: datetime, *placements: Placement, generation: int = 1, **other: Any
) -> dict[str, Any]:
    return {
        "page_id": name,
        "ensemble": "storefront",
        "shopper": ShopperKeys(SECRET).hashed(shopper.encode()),
        "time": time,
        "generation": generation,
        "query": "",
        "history": 3,
        "unknown_ids": 1,
        "placements": [
            {
                "title": title,
                "source": source,
                "keywords": list(keywords),
                "products": list(products),
                "scores": [0.5] * len(products),
            }
            for title, source, keywords, products in placements
        ],
        "process": "p",
        "sequence": 0,
        **other,
    }


def event(shopper: str, product: str, time: datetime, kind: str = "cart", **other: Any) -> dict[str, Any]:
    return {"user_id": shopper, "product_id": product, "timestamp": time, "type": kind, **other}


def request(tmp_path: Path, pages: list[dict[str, Any]], events: list[dict[str, Any]], **other: Any) -> OutcomesRequest:
    """A build with these exposures, and a file of events."""
    folder = tmp_path / "build" / "exposures"
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / SECRET_FILE).write_bytes(SECRET + b"\n")
    if pages:
        parquet.write_table(pa.Table.from_pylist(pages, schema()), folder / "segment.parquet")
    pl.DataFrame(events, infer_schema_length=None).write_parquet(tmp_path / "events.parquet")
    return OutcomesRequest(folder, tmp_path / "events.parquet", **other)


def run(asked: OutcomesRequest) -> dict[str, Any]:
    return run_outcomes(asked, Console(file=io.StringIO()))


def attributed(pages: list[dict[str, Any]], events: list[dict[str, Any]]) -> set[tuple[str, int, int, str, str]]:
    """(page_id, position, rank, product, kind) of the outcomes, within 24 hours."""
    frame = pl.from_arrow(pa.Table.from_pylist(pages, schema()))
    assert isinstance(frame, pl.DataFrame)
    keys = ShopperKeys(SECRET)
    followed = pl.DataFrame(
        [
            {
                "shopper": keys.hashed(each["user_id"].encode()),
                "product_id": each["product_id"],
                "page_id": each.get("page_id", ""),
                "time": each["timestamp"],
                "kind": each["type"],
            }
            for each in events
        ],
        schema_overrides={"time": pl.Datetime("us", "UTC")},
    )
    shown = tables_of(frame, followed)
    found = attribute(shown.pages, shown.products, followed, 24 * HOUR).join(
        shown.pages.select("page", "page_id"), on="page"
    )
    return set(found.select("page_id", "position", "rank", "product_id", "kind").iter_rows())


def test_the_last_page_that_showed_the_product_gets_the_event() -> None:
    pages = [
        page("1", "ann", NOON, SOUP, TEA),
        page("2", "ann", NOON + HOUR, TEA),
        page("3", "bob", NOON + HOUR, SOUP),
    ]
    # The first page showed b in two placements: the first of them counts.
    assert attributed(pages, [event("ann", "b", NOON + HOUR / 2)]) == {("1", 1, 2, "b", "cart")}
    assert attributed(pages, [event("ann", "b", NOON + 2 * HOUR)]) == {("2", 1, 1, "b", "cart")}
    assert attributed(pages, [event("ann", "a", NOON + 2 * HOUR)]) == {("1", 1, 1, "a", "cart")}
    assert attributed(pages, [event("ann", "a", NOON)]) == {("1", 1, 1, "a", "cart")}
    assert attributed(pages, [event("ann", "a", NOON + 24 * HOUR)]) == {("1", 1, 1, "a", "cart")}
    for nothing in (
        event("ann", "a", NOON - HOUR),
        event("ann", "a", NOON + 25 * HOUR),
        event("ann", "z", NOON + HOUR),
        event("cid", "a", NOON + HOUR),
        event("bob", "c", NOON + 2 * HOUR),
    ):
        assert attributed(pages, [nothing]) == set()


def test_an_event_that_names_its_page_counts_for_it() -> None:
    pages = [page("1", "ann", NOON, SOUP), page("2", "ann", NOON + HOUR, SOUP), page("3", "", NOON, SOUP)]
    late = NOON + 100 * HOUR
    assert attributed(pages, [event("ann", "a", late, page_id="1")]) == {("1", 1, 1, "a", "cart")}
    assert attributed(pages, [event("bob", "a", late, page_id="3")]) == {("3", 1, 1, "a", "cart")}
    # A page that did not show the product, or that nobody knows: the rule for other events.
    assert attributed(pages, [event("ann", "c", NOON + 2 * HOUR, page_id="1")]) == set()
    assert attributed(pages, [event("ann", "a", NOON + 2 * HOUR, page_id="9")]) == {("2", 1, 1, "a", "cart")}


def test_repeated_events_count_once_per_page_and_kind() -> None:
    pages = [page("1", "ann", NOON, SOUP)]
    events = [event("ann", "a", NOON + n * HOUR, kind) for n in (1, 2, 3) for kind in ("clicks", "carts")]
    assert attributed(pages, events) == {("1", 1, 1, "a", "clicks"), ("1", 1, 1, "a", "carts")}


def test_rates_have_the_variance_of_shoppers_not_of_views() -> None:
    """Shoppers who always or never buy: 10 views of one say no more than one view."""
    rng = np.random.default_rng(0)
    buys = rng.random(400) < 0.3
    frame = pl.DataFrame(
        {"unit": np.repeat(np.arange(400), 10), "carts": np.repeat(buys, 10).astype(int)}
    ).with_columns(clicks=pl.lit(0), purchases=pl.lit(0))
    (row,) = rates(frame, []).iter_rows(named=True)
    error = np.sqrt(buys.var(ddof=1) / 400)
    assert (row["views"], row["shoppers"], row["carts_rate"]) == (4000, 400, pytest.approx(buys.mean()))
    assert row["carts_high"] - row["carts_rate"] == pytest.approx(1.96 * error, rel=1e-3)
    assert row["clicks_rate"] == 0
    assert row["clicks_low"] is None, "nothing happened: no interval"


def test_the_difference_without_earlier_behaviour_is_that_of_two_ratios() -> None:
    rng = np.random.default_rng(1)
    arms = []
    for rate in (0.1, 0.2):
        views = rng.poisson(5, 1000) + 1.0
        arms.append(Arm(views, rng.poisson(rate * views).astype(float), np.empty((1000, 0))))
    found = compare(*arms)
    assert found.difference.value == pytest.approx(arms[1].rate - arms[0].rate)
    drawn = rng.integers(0, 1000, (2, 2000, 1000))
    again = [
        arm.outcomes[rows].sum(axis=1) / arm.views[rows].sum(axis=1) for arm, rows in zip(arms, drawn, strict=True)
    ]
    low, high = np.quantile(again[1] - again[0], (0.025, 0.975))
    assert found.difference.low == pytest.approx(low, abs=0.002)
    assert found.difference.high == pytest.approx(high, abs=0.002)
    assert found.ratio is not None
    low, high = np.quantile(again[1] / again[0], (0.025, 0.975))
    assert found.ratio.low == pytest.approx(low, rel=0.02)
    assert found.ratio.high == pytest.approx(high, rel=0.02)
    assert compare(*arms, adjusted=True) == found


def test_arms_are_those_who_could_see_the_treatment() -> None:
    """A request of the treatment that falls back shows a page of the control: its shopper stays in the treatment."""
    pages, events = [], []
    for number in range(80):
        generation = 1 + number % 2
        for hour in range(3):
            falls_back = number == 1 and hour == 1
            shown_by = 1 if falls_back else generation
            pages.append(page(f"{number}-{hour}", f"s{number}", NOON + hour * HOUR, SOUP, generation=shown_by))
        events.append(event(f"s{number}", "a", NOON + HOUR / 2, "view"))
    frame = pl.DataFrame(pages).with_columns(clicks=pl.lit(1), carts=pl.lit(0), purchases=pl.lit(0))
    trial = find_trial(frame, None)
    assert trial is not None
    assert (trial.control, trial.treatment, trial.start, trial.end) == (1, 2, NOON, NOON + 2 * HOUR - HOUR / 60)
    followed = pl.DataFrame(
        {"shopper": [], "product_id": [], "page_id": [], "time": [], "kind": []},
        schema_overrides={"time": pl.Datetime("us", "UTC"), "shopper": pl.String, "kind": pl.String},
    )
    document, warnings = run_trial(frame, followed, trial, HOUR, 0.5)
    assert document["arms"]["control"] == {"generation": 1, "shoppers": 40, "pages": 80}
    assert document["arms"]["treatment"] == {"generation": 2, "shoppers": 40, "pages": 80}
    assert document["treated_with_pages_of_both"] == 0.025
    assert document["metrics"]["carts"] == {"control": 0, "treatment": 0}
    assert warnings == []
    _, warnings = run_trial(frame, followed, trial, HOUR, 0.05)
    assert "expected 5.00%" in warnings[0]
    assert find_trial(frame.filter(pl.col("generation") == 1), None) is None


def test_generations_that_follow_each_other_are_not_compared() -> None:
    pages = [
        page(f"{generation}-{number}", f"s{number}", NOON + generation * HOUR, SOUP, generation=generation)
        for generation in (1, 2)
        for number in range(50)
    ]
    frame = pl.DataFrame(pages)
    assert find_trial(frame, None) is None
    # Nor are they if some pages of the first come a moment after the switch.
    moment = timedelta(seconds=5)
    late = [page(f"late-{number}", f"o{number}", NOON + 2 * HOUR + moment, SOUP) for number in range(50)]
    late += [page(f"on-{number}", f"n{number}", NOON + 3 * HOUR, SOUP, generation=2) for number in range(50)]
    assert find_trial(pl.concat([frame, pl.DataFrame(late)]), None) is None
    with pytest.raises(OutcomesError, match=r"generation 1: expected at least 2 shoppers while .* got 0"):
        find_trial(frame, (1, 2))
    with pytest.raises(OutcomesError, match=r"generation 7: expected pages of known shoppers.*: 1, 2"):
        find_trial(frame, (1, 7))


def test_the_index_of_stability() -> None:
    assert stability([1000, 1000], [500, 500]) == pytest.approx(0, abs=1e-6)
    assert stability([5000, 5000], [9000, 1000]) == pytest.approx(0.4 * np.log(1.8) + 0.4 * np.log(5), rel=1e-2)
    assert np.isfinite(stability([1000, 0], [0, 1000]))


def shop(tmp_path: Path, **other: Any) -> OutcomesRequest:
    """40 shoppers, two generations on two days; on the second day scores are other ones and products unknown."""
    pages, events = [], []
    for number in range(80):
        for day in range(2):
            shopper, time = f"s{number}", NOON + timedelta(days=day, minutes=number)
            name = f"{number}-{day}"
            tea = ("Tea", "generated", ("tea",) if day == 0 else (), tuple(f"t{n}" for n in range(40)))
            shown = page(name, shopper, time, SOUP, tea, generation=1 + number % 2, unknown_ids=day * 3)
            rng = np.random.default_rng(number * 2 + day)
            for placement in shown["placements"]:
                placement["scores"] = (0.4 * day + 0.5 * rng.random(len(placement["products"]))).tolist()
            pages.append(shown)
            events.append(event(shopper, "a", time + HOUR, "view"))
            if (number + day) % 4 == 0:
                events.append(event(shopper, "t3", time + HOUR, "cart"))
            events.append(event(shopper, "elsewhere", time + HOUR, "purchase"))
    return request(tmp_path, pages, events, **other)


def test_the_report(tmp_path: Path) -> None:
    asked = shop(tmp_path, share=0.5)
    report = run(asked)
    out = asked.exposures.parent / "outcomes"
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == json.loads(json.dumps(report))
    assert sorted(path.name for path in out.iterdir()) == ["drift.png", "outcomes.png", "report.json", "report.md"]
    counts = report["counts"]
    assert (counts["pages"], counts["shoppers"], counts["pages_without_shopper"]) == (160, 80, 0)
    assert counts["events"] == {"clicks": 160, "carts": 40, "purchases": 160}
    assert counts["attributed"] == {"clicks": 160, "carts": 40, "purchases": 0}
    (total,) = report["total"]
    assert total["clicks"]["value"] == 1
    assert total["carts"]["value"] == 0.25
    assert total["carts"]["low"] < 0.25 < total["carts"]["high"]
    assert {row["generation"]: row["views"] for row in report["generations"]} == {1: 80, 2: 80}
    assert {row["source"]: row["views"] for row in report["sources"]} == {"generated": 320}
    positions = {row["position"]: row for row in report["positions"]}
    assert positions[1]["clicks"]["count"] == 160
    assert positions[2]["carts"]["count"] == 40
    assert {row["keyword"]: row["views"] for row in report["keywords"]} == {"soup": 160, "broth": 160, "tea": 80}
    assert {row["theme"]: row["carts"]["count"] for row in report["themes"]} == {"Soup": 0, "Tea": 40}
    by_day = {(row["day"], row["theme"]): row["carts"]["count"] for row in report["over_time"]["theme"]}
    assert by_day == {
        ("2026-03-02", "Soup"): 0,
        ("2026-03-02", "Tea"): 20,
        ("2026-03-03", "Soup"): 0,
        ("2026-03-03", "Tea"): 20,
    }
    assert {row["day"]: row["views"] for row in report["over_time"]["source"]} == {"2026-03-02": 160, "2026-03-03": 160}
    assert report["experiment"]["arms"]["treatment"]["generation"] == 2
    assert report["warnings"] == []
    days = report["drift"]["days"]
    assert [(row["day"], row["generation"], row["is_reference"]) for row in days] == [
        ("2026-03-02", 1, True),
        ("2026-03-02", 2, True),
        ("2026-03-03", 1, False),
        ("2026-03-03", 2, False),
    ]
    assert days[0]["psi"] < 0.01 < 0.25 < days[2]["psi"]
    assert [row["unknown_products"] for row in days] == [0, 0, 0.5, 0.5]
    assert [row["empty_keywords"] for row in days] == [0, 0, 0.5, 0.5]
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "| all | 160 | 80 | 100.00 [100.00, 100.00] | 25.00 [" in text
    assert "| 2026-03-03 | 2 | 40 | " in text


def test_drift_as_metrics(tmp_path: Path) -> None:
    metrics = tmp_path / "collector" / "endcap.prom"
    report = run(shop(tmp_path, metrics=metrics))
    lines = metrics.read_text(encoding="utf-8").splitlines()
    psi = {row["generation"]: row["psi"] for row in report["drift"]["days"][2:]}
    for generation in (1, 2):
        labels = f'ensemble="storefront",generation="{generation}"'
        assert f"endcap_drift_score_psi{{{labels}}} {psi[generation]}" in lines
        assert f"endcap_drift_unknown_products{{{labels}}} 0.5" in lines
    assert len(lines) == 3 * (2 + 2)
    assert [path.name for path in metrics.parent.iterdir()] == ["endcap.prom"]


def test_a_report_is_the_reference_of_the_next(tmp_path: Path) -> None:
    asked = shop(tmp_path)
    run(asked)
    earlier = asked.exposures.parent / "outcomes" / "report.json"
    report = run(shop(tmp_path, reference=earlier, out=tmp_path / "again"))
    assert [row["is_reference"] for row in report["drift"]["days"]] == [False] * 4
    assert report["drift"]["days"][2]["psi"] > 0.25
    with pytest.raises(OutcomesError, match=r"expected report\.json of an earlier"):
        run(shop(tmp_path, reference=tmp_path / "events.parquet"))


def test_what_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    shown, bought = [page("1", "ann", NOON, SOUP)], [event("ann", "a", NOON + HOUR)]
    asked = request(tmp_path, shown, bought)
    assert run(asked)["total"][0]["carts"]["count"] == 1
    with pytest.raises(OutcomesError, match="expected a folder of exposures"):
        run(OutcomesRequest(tmp_path / "build" / "none", asked.events))
    with pytest.raises(OutcomesError, match=r"exposures\.key: expected the secret of the deployment, got No such file"):
        run(OutcomesRequest(tmp_path, asked.events))
    with pytest.raises(OutcomesError, match="expected a Parquet file of events"):
        run(OutcomesRequest(asked.exposures, tmp_path / "none.parquet"))
    other = tmp_path / "other.key"
    other.write_bytes(b"another")
    with pytest.raises(
        OutcomesError, match=r"expected shoppers of the exposures, got none of its 1 among their 1; .*--sec"
    ):
        run(OutcomesRequest(asked.exposures, asked.events, secret=other))
    other.write_bytes(b"\n")
    with pytest.raises(OutcomesError, match="got an empty file"):
        run(OutcomesRequest(asked.exposures, asked.events, secret=other))
    with pytest.raises(OutcomesError, match="expected answers of search, got only those of storefront"):
        run(OutcomesRequest(asked.exposures, asked.events, ensemble="search"))
    with pytest.raises(OutcomesError, match="generation 2: expected pages of known shoppers"):
        run(OutcomesRequest(asked.exposures, asked.events, compared=(1, 2)))


def test_events_that_are_wrong_are_refused(tmp_path: Path) -> None:
    shown = [page("1", "ann", NOON, SOUP)]
    with pytest.raises(CatalogueError, match=r"events\.parquet, column user_id, row 1: expected an id, got null"):
        run(request(tmp_path, shown, [event("ann", "a", NOON), {**event("", "a", NOON), "user_id": None}]))
    with pytest.raises(CatalogueError, match=r"column user_id: expected in the file"):
        run(request(tmp_path, shown, [{"product_id": "a", "timestamp": NOON, "type": "cart"}]))
    with pytest.raises(CatalogueError, match=r"column type, row 0: expected one of view, cart, purchase, got 'click'"):
        run(request(tmp_path, shown, [event("ann", "a", NOON, "click")]))
    later = datetime.now(UTC) + timedelta(days=400)
    with pytest.raises(OutcomesError, match=r"column timestamp: expected times up to now .* got 1 later"):
        run(request(tmp_path, shown, [event("ann", "a", NOON), event("ann", "a", later)]))
    with pytest.raises(OutcomesError, match="expected events after the first page"):
        run(request(tmp_path, shown, [event("ann", "a", NOON - HOUR)]))
    with pytest.raises(OutcomesError, match=r"expected pages up to now .* check the clocks"):
        run(request(tmp_path, [page("1", "ann", later, SOUP)], [event("ann", "a", NOON)]))
    with pytest.raises(OutcomesError, match="expected pages with a hash of the shopper, got none"):
        run(request(tmp_path, [page("1", "", NOON, SOUP)], [event("ann", "a", NOON + HOUR)]))


def test_a_folder_without_pages_or_with_a_broken_segment(tmp_path: Path) -> None:
    asked = request(tmp_path, [], [event("ann", "a", NOON)])
    with pytest.raises(OutcomesError, match="expected exposures, got none; serve pages"):
        run(asked)
    (asked.exposures / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(OutcomesError, match="got one that cannot be read"):
        run(asked)


def test_a_segment_that_is_deleted_meanwhile(tmp_path: Path) -> None:
    asked = request(tmp_path, [page("1", "ann", NOON, SOUP)], [event("ann", "a", NOON + HOUR)])
    table = pa.Table.from_pylist([page("2", "ann", NOON, SOUP)], schema())
    parquet.write_table(table, asked.exposures / "a.parquet")

    def deleting(readers: Any, *_: Any) -> Any:
        (asked.exposures / "a.parquet").unlink()
        return readers

    events = read_events(asked.events, ShopperKeys(SECRET), datetime.now(UTC), lambda items, *_: items)
    shown = read_shown(asked.exposures, events, datetime.now(UTC), deleting)
    assert shown.pages["page_id"].to_list() == ["1"]


def test_pages_that_can_have_no_event_yet_are_left_out(tmp_path: Path) -> None:
    shown = [page("1", "ann", NOON, SOUP), page("2", "ann", NOON + 2 * HOUR, SOUP), page("3", "", NOON, SOUP)]
    report = run(request(tmp_path, shown, [event("ann", "a", NOON + HOUR)]))
    assert (report["counts"]["pages"], report["counts"]["pages_after_the_last_event"]) == (1, 1)
    assert report["warnings"] == [
        "pages after the last event, left out: 1",
        "pages without a shopper, left out: 1",
    ]
    assert report["experiment"] is None
    report = run(request(tmp_path, shown, [event("ann", "a", NOON + HOUR, page_id="3")]))
    assert (report["counts"]["pages"], report["total"][0]["carts"]["count"]) == (2, 1)
    assert report["warnings"][1] == "pages without a shopper, with outcomes of events that name them only: 1"


def test_pages_of_segments_that_are_there_twice_count_once(tmp_path: Path) -> None:
    asked = request(tmp_path, [page("1", "ann", NOON, SOUP)], [event("ann", "a", NOON + HOUR)])
    (asked.exposures / "copy.parquet").write_bytes((asked.exposures / "segment.parquet").read_bytes())
    report = run(asked)
    assert (report["counts"]["pages"], report["total"][0]["carts"]["count"]) == (1, 1)
    assert report["sources"][0]["views"] == 1


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_outcomes_command(parser.add_subparsers(dest="command"))
    asked = shop(tmp_path)
    words = ["outcomes", "--exposures", str(asked.exposures), "--events", str(asked.events)]
    parsed = parser.parse_args([*words, "--out", str(tmp_path / "out"), "--compare", "1", "2", "--share", "50%"])
    assert parsed.run(parsed) == 0
    assert (tmp_path / "out" / "report.md").is_file()
    parsed = parser.parse_args([*words, "--secret", str(tmp_path / "none")])
    assert parsed.run(parsed) == 1
    assert "endcap outcomes: " in capsys.readouterr().err
    for wrong in (["--share", "0"], ["--window-hours", "-1"], ["--reference-days", "0"], ["--compare", "1"]):
        with pytest.raises(SystemExit) as exit_code:
            parser.parse_args([*words, *wrong])
        assert exit_code.value.code == 2
