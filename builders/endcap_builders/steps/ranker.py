"""Step `ranker`: LightGBM LambdaMART on what shoppers did, judged on the last weeks against simpler orders.

The events are cut in time: the first part only counts popularity, the second trains, the last judges. What is served
is the model that was judged. P3's caption tokens are judged by a second model that does without them.
"""

import json
from typing import Any

import lightgbm
import numpy as np
from endcap_server.shop.store import ItemStore
from endcap_server.stages.ranking import CAPTION_FEATURES, FEATURES, META_FILE, MODEL_FILE, FeatureTables, calibrated
from pydantic import Field

from endcap_builders.catalogue.groups import EVENTS
from endcap_builders.pipeline import BuildContext, Settings, Step
from endcap_builders.ranking_examples import Array, Examples, make_examples, popularity_before, read_visits
from endcap_builders.steps.store import WITHOUT_FACTS

_MIN_VISITS = 20
_GAIN = tuple(2**grade - 1 for grade in range(4))


class RankerSettings(Settings):
    """Options of the traditional ranker."""

    train_visits: int = Field(2500, ge=1, description="most shopping days to train on")
    judge_visits: int = Field(700, ge=1, description="most shopping days to judge on")
    negatives: int = Field(48, ge=4, le=1000, description="candidates each day's choices have to beat")
    trees: int = Field(100, ge=1, le=1000, description="trees; serving time grows with them")
    leaves: int = Field(8, ge=2, le=255, description="leaves of a tree")
    learning_rate: float = Field(0.08, gt=0, le=1, description="share of each tree's correction that is taken")
    judge_share: float = Field(0.15, gt=0, lt=0.5, description="last share of the shopping days, kept for judging")
    warm_up_share: float = Field(0.4, ge=0, lt=0.5, description="first share of the shopping days, for popularity only")
    captions: bool = Field(True, description="whether caption tokens are features of the served model (P3)")


def run(ctx: BuildContext, settings: RankerSettings) -> dict[str, Any]:
    """Train, judge and write `model.txt` and `ranker.json`; without events, only the latter, saying so."""
    store = ItemStore.open(ctx.build, linked=False)
    if ctx.catalogue.events is None:
        return _write_none(ctx, "the catalogue has no events")
    visits = read_visits(ctx.catalogue.events, store)
    if len(visits) < _MIN_VISITS:
        return _write_none(ctx, f"the events have {len(visits)} shopping days, fewer than {_MIN_VISITS}")
    train_from, judge_from = (
        int(np.quantile(visits.day, share, method="higher"))
        for share in (settings.warm_up_share, 1 - settings.judge_share)
    )
    train = np.flatnonzero((visits.day >= train_from) & (visits.day < judge_from))
    judge = np.flatnonzero(visits.day >= judge_from)
    if not len(train):
        return _write_none(ctx, "the events are all of about the same day, so none can be kept for judging")

    rng = np.random.default_rng(ctx.seed)
    parts = []
    for name, chosen, limit, since in (
        ("train", train, settings.train_visits, train_from),
        ("judge", judge, settings.judge_visits, judge_from),
    ):
        tables = FeatureTables.of(store, popularity_before(visits, since, len(store)))
        sample = np.sort(rng.permutation(chosen)[:limit])
        parts.append(
            make_examples(
                visits,
                ctx.track(sample.tolist(), f"days to {name}", len(sample)),
                tables,
                negatives=settings.negatives,
                rng=rng,
                cut_histories=name == "train",
            )
        )
    examples, judged = parts
    plain = [name for name in FEATURES if name not in CAPTION_FEATURES]
    models = {"model": list(FEATURES), "model without captions": plain}
    boosters = {name: _train(examples, columns, settings, ctx.seed) for name, columns in models.items()}
    raw = {name: _predict(booster, judged, models[name]) for name, booster in boosters.items()}
    ndcg = {name: _ndcg(judged, scores) for name, scores in raw.items()}
    for name, column in (("popularity", "popularity"), ("similarity to the history", "history_cosine")):
        ndcg[name] = _ndcg(judged, np.nan_to_num(judged.features[:, FEATURES.index(column)], nan=-1.0))
    ctx.log("nDCG@10 " + ", ".join(f"{name} {value:.3f}" for name, value in ndcg.items()))

    served = "model" if settings.captions else "model without captions"
    scale, shift = _calibrate(raw[served], judged.grades > 0)
    boosters[served].save_model(ctx.output / MODEL_FILE)
    _write_meta(ctx, {"kind": "lambdamart", "features": models[served], "scale": scale, "shift": shift})
    gain = boosters[served].feature_importance("gain")
    share = {name: round(float(value / gain.sum()), 4) for name, value in zip(models[served], gain, strict=True)}
    mean = calibrated(raw[served], scale, shift)
    return {
        "kind": "lambdamart",
        "visits": {"train": len(examples.sizes), "judge": len(judged.sizes)},
        "rows": {"train": len(examples.grades), "judge": len(judged.grades)},
        "ndcg@10": {name: round(value, 4) for name, value in ndcg.items()},
        "mean_score": {
            "chosen": round(float(mean[judged.grades > 0].mean()), 3),
            "others": round(float(mean[judged.grades == 0].mean()), 3),
        },
        "gain_share": dict(sorted(share.items(), key=lambda item: -item[1])),
    }


def _train(examples: Examples, columns: list[str], settings: RankerSettings, seed: int) -> lightgbm.Booster:
    data = lightgbm.Dataset(
        examples.features[:, [FEATURES.index(name) for name in columns]],
        label=examples.grades,
        group=examples.sizes,
        feature_name=columns,
    )
    parameters = {
        "objective": "lambdarank",
        "lambdarank_truncation_level": 20,
        "label_gain": list(_GAIN),
        "num_leaves": settings.leaves,
        "learning_rate": settings.learning_rate,
        "min_data_in_leaf": min(200, max(1, len(examples.grades) // 100)),
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "feature_fraction": 0.7,
        "lambda_l2": 5.0,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        # The histograms are small: a second thread waits more than it works, and on a busy machine four times as long.
        "num_threads": 1,
        "verbosity": -1,
    }
    return lightgbm.train(parameters, data, num_boost_round=settings.trees)


def _predict(booster: lightgbm.Booster, examples: Examples, columns: list[str]) -> Array:
    features = examples.features[:, [FEATURES.index(name) for name in columns]]
    return np.asarray(booster.predict(features, raw_score=True, num_threads=1))


def _ndcg(examples: Examples, scores: Array, depth: int = 10) -> float:
    """Mean nDCG@depth of the groups; equal scores in random order, as a place in the list tells the grade."""
    rng = np.random.default_rng(0)
    discounts = 1 / np.log2(np.arange(2, depth + 2))
    gains = np.array(_GAIN, np.float64)
    values = []
    for score, grades in zip(examples.groups(scores), examples.groups(examples.grades), strict=True):
        order = np.lexsort((rng.random(len(score)), -score))[:depth]
        ideal = np.sort(gains[grades])[::-1][:depth]
        values.append(gains[grades[order]] @ discounts[: len(order)] / (ideal @ discounts[: len(ideal)]))
    return float(np.mean(values))


def _calibrate(raw: Array, chosen: Array) -> tuple[float, float]:
    """Fit sigmoid(scale * raw + shift) to what was chosen, both classes weighing the same (Platt scaling by Newton).

    The share of chosen candidates is that of the sampling, not of the shop, so the fit leaves it out.
    """
    design = np.stack([raw, np.ones_like(raw)], axis=1)
    weights = np.where(chosen, 0.5 / max(chosen.sum(), 1), 0.5 / max((~chosen).sum(), 1))
    theta = np.array([1.0, 0.0])
    ridge = 1e-3 * np.eye(2)
    for _ in range(25):
        probability = 1 / (1 + np.exp(-np.clip(design @ theta, -30, 30)))
        gradient = design.T @ (weights * (probability - chosen)) + ridge @ (theta - [1.0, 0.0])
        curvature = (design * (weights * probability * (1 - probability))[:, None]).T @ design + ridge
        theta = theta - np.linalg.solve(curvature, gradient)
    return float(max(theta[0], 1e-3)), float(theta[1])


def _write_none(ctx: BuildContext, reason: str) -> dict[str, Any]:
    ctx.log(f"no ranking model: {reason}; pages are ranked without it")
    _write_meta(ctx, {"kind": "none", "reason": reason})
    return {"kind": "none", "reason": reason}


def _write_meta(ctx: BuildContext, meta: dict[str, Any]) -> None:
    (ctx.output / META_FILE).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


STEP = Step(
    name="ranker",
    needs=("catalogue", "store"),
    settings=RankerSettings,
    run=run,
    help="training the traditional ranker on the events",
    # It learns from prices as they were; a new price is only another input to it.
    reads={"catalogue": (EVENTS,), "store": WITHOUT_FACTS},
)
