"""`endcap evaluate captions`: rankers with and without caption tokens, on what shoppers bought later."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import torch
from endcap_server.shop.columns import Ragged
from endcap_server.shop.store import ItemStore
from endcap_server.stages.ranking_features import CAPTION_FEATURES, FEATURES
from endcap_server.stages.sources import SourceTables
from rich.console import Console

from endcap_builders.behaviour.log import Array, EventLog
from endcap_builders.behaviour.ranker import fit_trees
from endcap_builders.behaviour.ranker_settings import RankerSettings
from endcap_builders.behaviour.tables import Behaviour, BehaviourSettings
from endcap_builders.captions.dlrm import DlrmRanker, DlrmSettings
from endcap_builders.captions.measures import Draws, compared, measured
from endcap_builders.captions.tokens import TokenSettings, caption_ids, semantic_ids
from endcap_builders.captions.visits import Visits, baskets_of, visits_of, weeks_of
from endcap_builders.catalogue import read_catalogue
from endcap_builders.evaluation.captions_report import write_captions
from endcap_builders.logistic import fit_logistic
from endcap_builders.machine import machine
from endcap_builders.step import SettingError, build_context

_LEVELS = (64, 64, 64)
_CONTENT = ("history_cosine", "recent_cosine")
PLAIN = [name for name in FEATURES if name not in CAPTION_FEATURES]
WITHOUT_CONTENT = [name for name in PLAIN if name not in _CONTENT]


@dataclass(frozen=True)
class CaptionEvaluation:
    """What to evaluate.

    Attributes:
        build: with the steps `store` and before.
        catalogue: with events also after the build's cut.
        baskets: whether the second half of baskets is predicted, instead of the next weeks.
        systems: names of :data:`SYSTEMS`; all without any.
        seeds: how many.
        on: `validation`, to choose settings, or `test`.
        tokens: settings of tokens.
        dlrm: settings of the DLRM.
        name: of the report.
    """

    build: Path
    catalogue: Path
    baskets: bool
    systems: tuple[str, ...]
    seeds: int
    on: str
    tokens: TokenSettings
    dlrm: DlrmSettings
    name: str


@dataclass(frozen=True)
class _Data:
    train: Visits
    validation: Visits
    judged: Visits
    ids: dict[str, Array]
    captions: tuple[Ragged, int]
    semantic: tuple[Ragged, int]


Scores = tuple[Array, Array]
"""Logits of the validation's and of the judged examples."""


_RANKER, _BEHAVIOUR = RankerSettings.model_validate({}), BehaviourSettings.model_validate({})
"""What builds use by default."""


def _trees(columns: list[str]) -> Callable[[_Data, CaptionEvaluation, int], Scores]:
    def scores(data: _Data, request: CaptionEvaluation, seed: int) -> Scores:
        places = [FEATURES.index(name) for name in columns]
        train = data.train
        booster = fit_trees(train.features[:, places], train.bought, train.weight, columns, _RANKER, seed)
        return _raw(booster, data.validation.features[:, places]), _raw(booster, data.judged.features[:, places])

    return scores


def _raw(booster: lightgbm.Booster, features: Array) -> Array:
    return np.asarray(booster.predict(features, raw_score=True, num_threads=1))


def _dlrm(columns: list[str], *sets: str) -> Callable[[_Data, CaptionEvaluation, int], Scores]:
    def scores(data: _Data, request: CaptionEvaluation, seed: int) -> Scores:
        tokens = {name: getattr(data, name) for name in sets}
        ranker = DlrmRanker(data.ids, tokens, request.dlrm)
        ranker.fit(data.train, data.validation, [FEATURES.index(name) for name in columns], seed)
        return ranker.predict(data.validation), ranker.predict(data.judged)

    return scores


SYSTEMS: dict[str, Callable[[_Data, CaptionEvaluation, int], Scores]] = {
    "LightGBM": _trees(PLAIN),
    "LightGBM + overlaps": _trees(list(FEATURES)),
    "DLRM": _dlrm(PLAIN),
    "DLRM + captions": _dlrm(PLAIN, "captions"),
    "DLRM + semantic ids": _dlrm(PLAIN, "semantic"),
    "DLRM, no vectors": _dlrm(WITHOUT_CONTENT),
    "DLRM, no vectors + captions": _dlrm(WITHOUT_CONTENT, "captions"),
}
"""Compared systems. *no vectors*: without the cosines of the products' text vectors, which know the words already."""

PAIRS = (
    ("LightGBM + overlaps", "LightGBM"),
    ("DLRM", "LightGBM"),
    ("DLRM + captions", "DLRM"),
    ("DLRM + semantic ids", "DLRM"),
    ("DLRM, no vectors + captions", "DLRM, no vectors"),
    ("DLRM + captions", "LightGBM + overlaps"),
    ("mean + captions", "LightGBM + overlaps"),
    ("mean + captions", "mean"),
)
"""Systems that are compared with others on the same shoppers and seeds."""
_MEANS = {
    "mean": ("LightGBM", "DLRM"),
    "mean + captions": ("LightGBM + overlaps", "DLRM + captions"),
}


def run_captions(request: CaptionEvaluation, console: Console | None = None) -> dict[str, Any]:
    """Evaluate and write the report into `evaluation/NAME` of the build; the report.

    Scores of a system and seed are kept there, so that an interrupted run goes on.

    Raises:
        SettingError: a system that does not exist.
    """
    names = list(request.systems or SYSTEMS)
    for name in names:
        if name not in SYSTEMS:
            raise SettingError(f"--system: expected one of {', '.join(SYSTEMS)}, got {name!r}")
    torch.set_num_threads(1)
    folder = request.build / "evaluation" / request.name
    folder.mkdir(parents=True, exist_ok=True)
    ctx = build_context(request.build, request.catalogue, folder, console or Console())
    data, figures = _data(request, folder.parent, ctx.track)
    kept_in = folder / "scores" / _digest(f"{request.on} {request.baskets} {request.tokens} {request.dlrm}")
    kept_in.mkdir(parents=True, exist_ok=True)
    runs = [(name, seed) for seed in range(request.seeds) for name in names]
    scores: dict[str, list[Array]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name, seed in ctx.track(runs, "systems and seeds", len(runs)):
        kept = kept_in / f"{name.replace(' ', '_')}.{seed}.npy"
        if not kept.exists() or len(np.load(kept)) != len(data.judged.bought) + 1:
            start = time.perf_counter()
            validation, judged = SYSTEMS[name](data, request, seed)
            scale, shift = _calibration(validation, data.validation)
            # The first number is the time, so that a run that goes on knows it.
            np.save(kept, np.r_[time.perf_counter() - start, scale * judged + shift].astype(np.float32))
        found = np.load(kept)
        seconds[name].append(float(found[0]))
        scores[name].append(found[1:])
    for name, parts in _MEANS.items():
        if set(parts) <= set(scores):
            scores[name] = [np.mean(pair, axis=0) for pair in zip(*(scores[part] for part in parts), strict=True)]
    report = {
        **figures,
        "machine": machine(),
        "seeds": request.seeds,
        "on": request.on,
        "next": "the rest of the basket" if request.baskets else "the next weeks",
        "settings": {"tokens": request.tokens.model_dump(), "dlrm": request.dlrm.model_dump()},
        "seconds": {name: round(float(np.mean(each)), 1) for name, each in seconds.items()},
        **_figures(data.judged, scores, request.seeds),
    }
    write_captions(report, folder)
    (console or Console()).print(f"  report: {folder / 'report.md'}", highlight=False, markup=False)
    return report


def _calibration(logit: Array, visits: Visits) -> tuple[float, float]:
    """Scale and shift of the logits (Platt) on weighted examples; weights are whole numbers."""
    rows = np.repeat(np.arange(len(logit)), visits.weight.astype(np.int64))
    (scale,), shift = fit_logistic(
        logit[rows, None].astype(np.float64), visits.bought[rows], intercept=True, prior=1e-6
    )
    return float(scale), float(shift)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _figures(judged: Visits, scores: dict[str, list[Array]], seeds: int) -> dict[str, Any]:
    draws = Draws.of(judged, seeds, seed=0)
    parts = {"all": np.ones(len(judged.bought), bool), "warm": ~judged.cold, "cold": judged.cold}
    values: dict[str, Any] = {name: {} for name in scores}
    over: dict[str, Any] = {}
    for part, chosen in parts.items():
        if not judged.bought[chosen].any():
            continue
        found = {name: measured(judged, each, chosen, draws) for name, each in scores.items()}
        for name, each in found.items():
            values[name][part] = {measure: round(float(value[0]), 5) for measure, value in each.items()}
        for ours, theirs in PAIRS:
            if ours in found and theirs in found:
                pair = over.setdefault(f"{ours} over {theirs}", {})
                pair[part] = {
                    measure: {"value": each.value, "low": each.low, "high": each.high}
                    for measure, each in compared(found[ours], found[theirs]).items()
                }
    return {"values": values, "over": over}


def _data(request: CaptionEvaluation, folder: Path, track: Any) -> tuple[_Data, dict[str, Any]]:
    store = ItemStore.open(request.build, linked=False)
    catalogue = read_catalogue(request.catalogue)
    if catalogue.events is None:
        raise ValueError("captions: expected a catalogue with events, got none")
    log = EventLog.read(catalogue.events, store)
    train, validation, test = (baskets_of if request.baskets else weeks_of)(log, 8)

    def visits(periods: list[Any], most: int) -> Visits:
        asked = f"{catalogue.digest} {len(store)} {request.baskets} {periods} {most}"
        path = folder / f"visits_{_digest(asked)}.npz"
        if not path.exists():
            found = visits_of(log, periods, store, _BEHAVIOUR, baskets=request.baskets, most=most, seed=1, track=track)
            found.write(path)
        return Visits.read(path)

    learned, checked = visits(train, 300), visits([validation], 800)
    judged = visits([test], 1000) if request.on == "test" else checked
    rows = store.product_ids.find(catalogue.products["product_id"].to_list())
    texts = np.empty(len(store), object)
    texts[rows] = catalogue.products.select(
        pl.concat_str(pl.col("title"), pl.col("description").str.slice(0, 1000), separator=". ")
    ).to_series().to_list()  # fmt: skip
    parent = SourceTables.of(Behaviour.empty(len(store)), np.asarray(store.category), store.categories).parent
    data = _Data(
        train=learned,
        validation=checked,
        judged=judged,
        ids={"category": np.asarray(store.category), "parent": parent, "brand": np.asarray(store.brand)},
        captions=caption_ids([str(text) for text in texts], request.tokens),
        semantic=semantic_ids(np.asarray(store.vectors, np.float32), _LEVELS, seed=0),
    )
    tokens, size = data.captions
    return data, {
        "visits": {name: len(each.sizes) for name, each in (("train", learned), ("judged", judged))},
        "shoppers": len(np.unique(judged.shopper)),
        "examples": {name: len(each.bought) for name, each in (("train", learned), ("judged", judged))},
        "bought": {"all": int(judged.bought.sum()), "cold": int((judged.bought & judged.cold).sum())},
        "tokens": {"distinct": size, "per_product": round(len(tokens.values) / len(store), 2), "from": "text"},
    }
