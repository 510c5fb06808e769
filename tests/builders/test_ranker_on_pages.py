"""What training on shown pages does to the ranker, in a shop whose truth is known. Prints the figures of the docs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from endcap_builders.behaviour import impressions
from endcap_builders.behaviour.ranker_settings import RankerSettings
from endcap_builders.behaviour.tables import BehaviourSettings
from endcap_builders.steps import behaviour, ranker
from endcap_server.shop.store import ItemStore
from endcap_server.stages.ranking import Ranker
from simulated_pages import PAGE, SHOPPERS, SimulatedPages, expected_purchases
from test_ranker import context

SEEDS = 4
SETTINGS = RankerSettings(train_shoppers=1500, judge_shoppers=100, trees=80, kept=0.25, cuts=6)
SHOPS = {
    "pages follow appeal": SimulatedPages(push=0.0, alone=0.0),
    "pages push products": SimulatedPages(push=1.5, alone=0.0),
    "pages push products strongly": SimulatedPages(push=3.0, alone=0.0),
    "pages push products, half is found alone": SimulatedPages(push=1.5, alone=0.5),
}
LEAST_GAIN = {name: 0.01 if shop.push > 2 else -0.02 for name, shop in SHOPS.items()}
TRAINED = ("log", "log and pages", "log and pages, uncorrected")


@pytest.mark.long
@pytest.mark.parametrize("name", SHOPS)
def test_the_effect_of_pages(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = np.array([effect(SHOPS[name], tmp_path / str(seed), seed, monkeypatch) for seed in range(SEEDS)])
    for trained, values in zip(TRAINED, ratios.T, strict=True):
        print(f"\n{name}: {trained}: {values.mean():.3f} of the best page, {np.round(values, 3)}", end="")
    gain = ratios[:, 1] / ratios[:, 0] - 1
    print(f"\n{name}: pages change expected purchases by {gain.mean():+.1%}, {np.round(gain, 3)}")
    assert (ratios <= 1).all()
    assert gain.mean() > LEAST_GAIN[name]


def effect(shop: SimulatedPages, build: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Expected purchases of pages by each ranker, as a share of those of the best page."""
    events, chance = shop.write(build, seed)
    ctx = context(build, events)
    (build / "behaviour").mkdir()
    behaviour.run(replace(ctx, output=build / "behaviour"), BehaviourSettings())
    found = []
    for trained in TRAINED:
        pages = trained != "log"
        with monkeypatch.context() as patched:
            if trained.endswith("uncorrected"):
                patched.setattr(impressions, "_LEAST_ATTENTION", 1.0)
            folder = str(build / "exposures") if pages else ""
            secret = str(build / "exposures.key") if pages else ""
            update = {"exposures": folder, "exposures_secret": secret}
            ranker.run(ctx, SETTINGS.model_copy(update=update))
        found.append(share_of_best(build, events, chance))
    return found


def share_of_best(build: Path, events: pl.DataFrame, chance: np.ndarray) -> float:
    store, model = ItemStore.open(build), Ranker.open(build)
    rows = np.arange(len(store))
    shown = best = 0.0
    for shopper in range(0, SHOPPERS, 4):
        own = events.filter(pl.col("user_id") == f"u{shopper:03}")["product_id"].to_list()
        history = store.product_ids.find(own)[-200:]
        order = np.argsort(-model.score(store, history, rows), kind="stable")
        shown += expected_purchases(chance[shopper], order[:PAGE])
        best += expected_purchases(chance[shopper], np.argsort(-chance[shopper]))
    return shown / best
