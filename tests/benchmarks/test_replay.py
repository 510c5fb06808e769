"""Requests drawn from a catalogue."""

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import polars
import pytest

from benchmarks.replay import MAX_HISTORY, Replay, ReplayedRequest, ReplayError


def write(folder: Path, events: polars.DataFrame) -> None:
    """Write the events as purchases, and their products."""
    events.with_columns(type=polars.lit("purchase")).write_parquet(folder / "events.parquet")
    products = events.select(polars.col("product_id").unique())
    products.with_columns(title="product_id").write_parquet(folder / "products.parquet")


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """Shopper `s-n` has n + 1 events, of products that say which and when; shuffled."""
    rows = [
        {"user_id": f"s-{shopper}", "product_id": f"p-{shopper}-{place}", "timestamp": datetime(2026, 1, 1)}
        | {"timestamp": datetime(2026, 1, 1) + timedelta(minutes=100 * place + shopper)}
        for shopper in range(20)
        for place in range(shopper + 1)
    ]
    write(tmp_path, polars.DataFrame(rows).sample(fraction=1, shuffle=True, seed=1))
    log = polars.DataFrame({"query": ["tea", "coffee", "rare"], "count": [600, 399, 1]})
    log.write_parquet(tmp_path / "queries.parquet")
    return tmp_path


def test_same_seed_same_requests(catalogue: Path) -> None:
    one, two, other = Replay(catalogue, 5), Replay(catalogue, 5), Replay(catalogue, 6)
    drawn = [each.storefronts(6) + each.searches(6) + each.traffic(6, 0.5) for each in (one, two, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [ReplayedRequest.read(request.document()) for request in drawn[0]] == drawn[0]


def test_histories_are_oldest_first(catalogue: Path) -> None:
    for request in Replay(catalogue, 1).storefronts(20):
        shopper = request.history[0].split("-")[1]
        assert request.history == tuple(f"p-{shopper}-{place}" for place in range(int(shopper) + 1))


def test_distinct_shoppers_do_not_come_twice(catalogue: Path) -> None:
    replay = Replay(catalogue, 2)
    first = [request.history for request in replay.storefronts(12) + replay.storefronts(8)]
    assert len(set(first)) == 20
    assert len({request.history for request in replay.storefronts(20)}) == 20, "then they come again"


def test_searches_follow_the_log(catalogue: Path) -> None:
    counts = Counter(request.query for request in Replay(catalogue, 3).searches(2000))
    assert 0.55 < counts["tea"] / 2000 < 0.65
    assert counts["rare"] < 20
    assert all(request.kind == "search" for request in Replay(catalogue, 3).searches(5))


def test_visits_follow_the_events(catalogue: Path) -> None:
    """Each page of a shopper has the history of the page before, longer by one event; the session stays."""
    before: dict[str, ReplayedRequest] = {}
    for request in Replay(catalogue, 4).visits(200):
        if not request.history:
            continue
        shopper = request.history[0].split("-")[1]
        if shopper in before and len(request.history) < int(shopper):
            assert request.history[:-1] == before[shopper].history
            assert request.session == before[shopper].session
        before[shopper] = request
    assert len(before) > 5


def test_traffic_mixes(catalogue: Path) -> None:
    kinds = Counter(request.kind for request in Replay(catalogue, 5).traffic(400, 0.25))
    assert 60 < kinds["search"] < 140
    assert {request.kind for request in Replay(catalogue, 5).traffic(20, 0.0)} == {"storefront"}


def test_long_histories_are_cut_to_the_newest(tmp_path: Path) -> None:
    start = datetime(2026, 1, 1)
    rows = [{"user_id": "a", "product_id": str(n), "timestamp": start + timedelta(hours=n)} for n in range(300)]
    write(tmp_path, polars.DataFrame(rows))
    polars.DataFrame({"query": ["tea"], "count": [1]}).write_parquet(tmp_path / "queries.parquet")
    (request,) = Replay(tmp_path, 1).storefronts(1)
    assert request.history == tuple(str(n) for n in range(300 - MAX_HISTORY, 300))


def test_a_catalogue_without_shoppers(tmp_path: Path) -> None:
    write(tmp_path, polars.DataFrame({"product_id": ["p"]}))
    (tmp_path / "events.parquet").unlink()
    with pytest.raises(ReplayError, match=r"events\.parquet: expected shoppers and searches to replay"):
        Replay(tmp_path, 1)
