"""The ranker's examples from pages that were shown, and the position bias that they are corrected by."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from endcap_builders.behaviour.examples import Cut
from endcap_builders.behaviour.impressions import Impressions, page_days, read_impressions
from endcap_builders.behaviour.log import EventLog
from endcap_builders.behaviour.tables import BehaviourSettings
from endcap_builders.outcomes.errors import OutcomesError
from endcap_builders.outcomes.position_bias import position_bias
from endcap_builders.steps.ranker import STEP, exposures_digest
from endcap_server.exposures.record import SECRET_FILE, ShopperKeys
from endcap_server.exposures.segments import schema
from endcap_server.stages.sources import Profile
from pyarrow import parquet
from test_ranker import PRODUCTS, SETTINGS, context, make_events, make_store

SECRET = b"of the deployment"
POSITIONS, RANKS = 4, 6
ATTENTION = np.outer(1 / np.arange(1, POSITIONS + 1) ** 0.5, 1 / np.arange(1, RANKS + 1) ** 0.3)


def test_position_bias_is_told_from_appeal() -> None:
    """The page shows products in the order of their scores, which know their appeal, but not exactly."""
    rng = np.random.default_rng(0)
    products, places = 400, POSITIONS * RANKS
    appeal = rng.gamma(1, 0.03, products).clip(0, 0.9)
    shown = np.argsort(rng.random((20_000, products)), axis=1)[:, :places]
    score = np.log(appeal[shown] + 1e-4) + rng.normal(0, 1, shown.shape)
    unit = np.take_along_axis(shown, np.argsort(-score, axis=1), 1)
    outcome = rng.random(unit.shape) < appeal[unit] * ATTENTION.ravel()
    place = np.broadcast_to(np.arange(places), unit.shape).ravel()
    found = position_bias(unit.ravel(), place // RANKS + 1, place % RANKS + 1, outcome.ravel())
    np.testing.assert_allclose(found.positions, ATTENTION[:, 0], atol=0.05)
    np.testing.assert_allclose(found.ranks, ATTENTION[0], atol=0.08)
    # What is bought by place says far less: good products stand first.
    naive = outcome.reshape(-1, POSITIONS, RANKS).mean(axis=(0, 2))
    assert naive[-1] / naive[0] < 0.2 < found.positions[-1]

    # Corrected rates tell by how much better products are better; rates as they are exaggerate it.
    weight = np.where(outcome.ravel(), 1 / found.attention(place // RANKS + 1, place % RANKS + 1), 0)
    good = appeal[unit.ravel()] > np.median(appeal)
    truth, corrected, plain = (
        each[good].mean() / each[~good].mean() for each in (appeal[unit.ravel()], weight, outcome.ravel())
    )
    assert corrected == pytest.approx(truth, rel=0.05)
    assert plain > 1.2 * truth


def test_few_outcomes_mean_little_correction() -> None:
    place = np.array([1, 2])
    found = position_bias(np.array([0, 0]), place, np.array([1, 1]), np.array([True, False]))
    assert found.attention(place, np.array([1, 1])) == pytest.approx([1, 1], abs=0.1)
    assert position_bias(np.array([0]), np.array([3]), np.array([1]), np.array([False])).positions.tolist() == [1, 1, 1]


def write_pages(folder: Path, events: pl.DataFrame) -> int:
    """A page a minute before each purchase shows what is bought and 11 products that are not; the number of pages."""
    folder.mkdir()
    (folder.parent / SECRET_FILE).write_bytes(SECRET)
    rng, keys = np.random.default_rng(3), ShopperKeys(SECRET)
    rows = []
    for number, (user, product, time, kind) in enumerate(events.iter_rows()):
        if kind != "purchase":
            continue
        others = [f"p{row}" for row in rng.choice(PRODUCTS, 12, replace=False)]
        shown = [other for other in others if other != product][:11]
        shown.insert(int(rng.integers(12)), product)
        placements = [
            {"title": "", "source": "generated", "keywords": [], "products": half, "scores": [0.5] * 6}
            for half in (shown[:6], shown[6:])
        ]
        rows.append(
            {
                "page_id": str(number),
                "ensemble": "storefront",
                "shopper": keys.hashed(user.encode()),
                "time": time - timedelta(minutes=1),
                "generation": 1,
                "placements": placements,
            }
        )
    parquet.write_table(pa.Table.from_pylist(rows, schema()), folder / "segment.parquet")
    return len(rows)


def impressions_of(tmp_path: Path, most_pages: int = 10_000) -> tuple[Impressions, EventLog, int]:
    store, events = make_store(tmp_path), make_events()
    pages = write_pages(tmp_path / "exposures", events)
    log = EventLog.read(events, store)
    read = read_impressions(tmp_path / "exposures", None, events, log, store, most_pages, lambda items, *_: items)
    return read, log, pages


def test_examples_are_what_pages_showed(tmp_path: Path) -> None:
    found, log, pages = impressions_of(tmp_path)
    # Pages of the last 24 hours are left out: more may come of them.
    assert pages - 20 < found.pages < pages
    assert len(found.row) == 12 * found.pages
    assert found.bought.sum() == found.pages
    assert (found.weight[~found.bought] == 1).all()
    assert (found.weight[found.bought] >= 0.8).all()
    assert found.bias.positions.shape == (2,)
    assert found.bias.ranks.shape == (6,)

    store = make_store(tmp_path)
    cut = Cut(int(log.day.min()) + 30, 10)
    part = found.examples(log, cut, store, BehaviourSettings(), 5, np.random.default_rng(0))
    assert part is not None
    assert len(part.sizes) == 5
    assert part.sizes.sum() == len(part.bought) == len(part.features)
    assert part.all_bought.sum() == 0
    own = (found.day >= cut.day) & (found.day < cut.day + cut.days)
    everyone = found.examples(log, cut, store, BehaviourSettings(), 1000, np.random.default_rng(0))
    assert everyone is not None
    shown = set(zip(found.shopper[own].tolist(), found.row[own].tolist(), strict=True))
    assert len(everyone.bought) == len(shown)
    # Features are those of the history before the cut, not of the page's day.
    before = log.take(log.day < cut.day).by_shopper()
    first = min(set(before) & set(found.shopper[own].tolist()))
    rows = np.unique(found.row[own & (found.shopper == first)])
    new = Profile.of(before[first]).place(rows) < 0
    ordered = found.examples(log, cut, store, BehaviourSettings(), 1000, np.random.default_rng(0))
    assert ordered is not None
    assert any(np.array_equal(each, new) for (each,) in ordered.groups(ordered.new))
    assert found.examples(log, Cut(cut.day + 1000, 5), store, BehaviourSettings(), 5, np.random.default_rng(0)) is None


def test_only_the_latest_pages_are_read(tmp_path: Path) -> None:
    store, events = make_store(tmp_path), make_events()
    folder = tmp_path / "exposures"
    write_pages(folder, events)
    table = parquet.read_table(folder / "segment.parquet").sort_by("time")
    (folder / "segment.parquet").unlink()
    for number in range(3):
        parquet.write_table(table.slice(number * 200, 200), folder / f"{number}.parquet")
    log = EventLog.read(events, store)
    found = read_impressions(folder, None, events, log, store, 150, lambda items, *_: items)
    assert found.pages < 201
    assert found.day.min() > log.day.min() + 30


def test_days_of_pages_end_before_the_next_cut_and_the_judged_days() -> None:
    cuts = [Cut(100, 8), Cut(96, 8), Cut(92, 8)]
    assert page_days(cuts) == [Cut(100, 8), Cut(96, 3), Cut(92, 4)]


def test_the_step_trains_on_what_was_shown(tmp_path: Path) -> None:
    events = make_events()
    make_store(tmp_path)
    pages = write_pages(tmp_path / "exposures", events)
    assert exposures_digest(SETTINGS) == ""
    settings = SETTINGS.model_copy(update={"exposures": str(tmp_path / "exposures")})
    digest = exposures_digest(settings)
    figures = STEP.run(context(tmp_path, events), settings)
    assert figures["kind"] == "lightgbm"
    assert 0 < figures["shown"]["pages"] < pages
    assert figures["shown"]["bought"] <= figures["shown"]["pages"]
    assert figures["shares"]["model"]["all"] > 0.8, "it still learns what events show"
    (tmp_path / "exposures" / "more.parquet").write_bytes(b"")
    assert exposures_digest(settings) != digest


def test_exposures_of_others_are_refused(tmp_path: Path) -> None:
    events = make_events()
    make_store(tmp_path)
    write_pages(tmp_path / "exposures", events)
    (tmp_path / SECRET_FILE).write_bytes(b"another")
    settings = SETTINGS.model_copy(update={"exposures": str(tmp_path / "exposures")})
    with pytest.raises(OutcomesError, match="expected pages of shoppers whose events are known, got none"):
        STEP.run(context(tmp_path, events), settings)
