"""The ranker: LightGBM on purchases after several days of the past, evaluated on the last weeks.

The model predicts the probability that a shopper buys a product in the next weeks. It is evaluated on the last weeks of
the log, which are held out, against three baseline orders of the same candidates. The step `gates` installs it if it is
better than each of them. The served model is then trained on all weeks. A second model without P3's caption tokens
measures their effect.
"""

import json
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from endcap_server.shop.store import ItemStore
from endcap_server.stages.ranking import CAPTION_FEATURES, FEATURES, META_FILE, MODEL_FILE, calibrated

from endcap_builders.behaviour.examples import (
    Cut,
    Examples,
    cuts_of,
    examples_at,
    page_shares,
    shopper_shares,
    simple_orders,
)
from endcap_builders.behaviour.impressions import Impressions, page_days, read_impressions
from endcap_builders.behaviour.log import Array, EventLog
from endcap_builders.behaviour.ranker_settings import RankerSettings
from endcap_builders.behaviour.tables import BehaviourSettings
from endcap_builders.evaluation.pages import PAGE_SIZE
from endcap_builders.gates import Gate, write_gates
from endcap_builders.logistic import fit_logistic
from endcap_builders.manifest import read_manifest
from endcap_builders.step import BuildContext

_LEAST_SHOPPERS = 20


def build_ranker(ctx: BuildContext, settings: RankerSettings) -> dict[str, Any]:
    """Train, evaluate and write `model.txt` and `ranker.json`; without a model only the latter, with the reason."""
    store = ItemStore.open(ctx.build, linked=False)
    if ctx.catalogue.events is None:
        return _write_none(ctx, "the catalogue has no events")
    log = EventLog.read(ctx.catalogue.events, store)
    cuts = cuts_of(log, settings.cuts + 1)
    if len(cuts) < 2:
        return _write_none(ctx, "the events are of too few days to keep some for judging")
    parts = _examples(ctx, log, cuts, store, settings)
    judged = parts.pop(cuts[0], None)
    # Labels of the training must not overlap with the evaluation period.
    earlier = [part for cut, part in parts.items() if cut.day + cut.days <= cuts[0].day]
    if judged is None or not earlier or sum(len(part.sizes) for part in [judged, *earlier]) < _LEAST_SHOPPERS:
        return _write_none(ctx, f"fewer than {_LEAST_SHOPPERS} shoppers bought something after what they had before")
    impressions = _impressions(ctx, log, store, settings)
    shown = _shown(ctx, log, cuts, store, settings, impressions)
    train = Examples.join([*earlier, *(part for cut, part in shown.items() if cut.day + cut.days <= cuts[0].day)])
    if not train.bought.any() or not judged.bought.any():
        return _write_none(ctx, "nobody bought anything that the sources of candidates had found")

    everything = Examples.join([*parts.values(), _thinned(judged, settings.kept, ctx.seed), *shown.values()])
    factor = 1 + float(everything.all_bought.sum()) / max(float(everything.new_bought.sum()), 1.0)
    plain = [name for name in FEATURES if name not in CAPTION_FEATURES]
    models = {"model": list(FEATURES), "model without captions": plain}
    raw = {}
    for name, columns in ctx.track(list(models.items()), "models to judge", len(models)):
        raw[name] = _predict(_train(train, columns, settings, ctx.seed), judged, columns)
    served = "model" if settings.captions else "model without captions"
    scale, shift = _calibrate(raw[served], judged.bought)
    probability = calibrated(raw[served], scale, shift)
    orders = _orders(judged, {name: calibrated(each, scale, shift) for name, each in raw.items()}, factor)
    shares = {name: page_shares(judged, each, PAGE_SIZE) for name, each in orders.items()}
    figures = {
        "visits": {"train": len(everything.sizes), "judge": len(judged.sizes)},
        "rows": {"train": len(everything.bought), "judge": len(judged.bought)},
        "shares": {name: {"all": round(every, 4), "new": round(new, 4)} for name, (every, new) in shares.items()},
        "mean_score": {
            "chosen": round(float(probability[judged.bought].mean()), 4),
            "others": round(float(probability[~judged.bought].mean()), 4),
        },
        "bought": round(float(judged.bought.mean()), 4),
        "new_factor": round(factor, 3),
        **({"shown": impressions.figures(list(shown.values()))} if impressions is not None else {}),
    }
    ctx.log(
        f"shares of purchases (all, new) in {PAGE_SIZE} products: "
        + ", ".join(f"{name} {every:.3f} {new:.3f}" for name, (every, new) in shares.items())
    )
    simple = ("popular", "own", "half")
    write_gates(ctx.output, [_gate(judged, orders[served], f"order {name!r}", orders[name]) for name in simple])

    booster = _train(everything, models[served], settings, ctx.seed)
    booster.save_model(ctx.output / MODEL_FILE)
    _write_meta(
        ctx,
        {
            "kind": "lightgbm",
            "features": models[served],
            "scale": scale,
            "shift": shift,
            "prior": float(probability.mean()),
            "new_factor": factor,
        },
    )
    gain = booster.feature_importance("gain")
    share = {name: round(float(value / gain.sum()), 4) for name, value in zip(models[served], gain, strict=True)}
    return {"kind": "lightgbm", **figures, "gain_share": dict(sorted(share.items(), key=lambda item: -item[1]))}


def _examples(
    ctx: BuildContext, log: EventLog, cuts: list[Cut], store: ItemStore, settings: RankerSettings
) -> dict[Cut, Examples]:
    """The examples of each cut that has any. The first is for evaluation, with all candidates and whole histories."""
    tables = _behaviour_settings(ctx)
    each = -(-settings.train_shoppers // (len(cuts) - 1))
    parts = {}
    for cut in ctx.track(cuts, "days of the past", len(cuts)):
        judging = cut is cuts[0]
        part = examples_at(
            log,
            cut,
            store,
            tables,
            shoppers=settings.judge_shoppers if judging else each,
            kept=1.0 if judging else settings.kept,
            cut_histories=not judging,
            rng=np.random.default_rng([ctx.seed, cut.day]),
        )
        if part is not None:
            parts[cut] = part
    return parts


def _behaviour_settings(ctx: BuildContext) -> BehaviourSettings:
    told = read_manifest(ctx.build)["steps"].get("behaviour", {}).get("settings", {})
    return BehaviourSettings.model_validate(told)


def _impressions(ctx: BuildContext, log: EventLog, store: ItemStore, settings: RankerSettings) -> Impressions | None:
    """What pages showed, if the settings name exposures.

    Raises:
        OutcomesError: There is no secret, or no page was shown to a shopper of the events.
    """
    events = ctx.catalogue.events
    if not settings.exposures or events is None:
        return None
    secret = Path(settings.exposures_secret) if settings.exposures_secret else None
    return read_impressions(Path(settings.exposures), secret, events, log, store, settings.exposure_pages, ctx.track)


def _shown(
    ctx: BuildContext,
    log: EventLog,
    cuts: list[Cut],
    store: ItemStore,
    settings: RankerSettings,
    impressions: Impressions | None,
) -> dict[Cut, Examples]:
    """Examples of what pages showed after each cut, until the next one."""
    if impressions is None:
        return {}
    tables, parts = _behaviour_settings(ctx), {}
    each = -(-settings.train_shoppers // len(cuts))
    periods = page_days(cuts)
    for period in ctx.track(periods, "days of pages", len(periods)):
        part = impressions.examples(log, period, store, tables, each, np.random.default_rng([ctx.seed, period.day, 1]))
        if part is not None:
            parts[period] = part
    return parts


def _thinned(examples: Examples, kept: float, seed: int) -> Examples:
    """The same shoppers, with only a share of the candidates that they did not buy."""
    keep = examples.bought | (np.random.default_rng(seed).random(len(examples.bought)) < kept)
    sizes = np.array([int(group.sum()) for (group,) in examples.groups(keep)])
    return Examples(
        features=examples.features[keep],
        bought=examples.bought[keep],
        weight=np.where(examples.bought, 1, 1 / kept).astype(np.float32)[keep],
        new=examples.new[keep],
        sizes=sizes,
        all_bought=examples.all_bought,
        new_bought=examples.new_bought,
    )


def _gate(judged: Examples, model: Array, name: str, simple: Array) -> Gate:
    """Compare the model's order with a baseline: share of later purchases that a page shows, all plus new."""
    (every, new), (other_every, other_new) = (shopper_shares(judged, each, PAGE_SIZE) for each in (model, simple))
    # A shopper without new purchases counts for all purchases only.
    share = len(new) / max(1, int((~np.isnan(new)).sum()))
    mine, other = every + share * np.nan_to_num(new), other_every + share * np.nan_to_num(other_new)
    return Gate.of("ranker", f"purchases on a page of {PAGE_SIZE} (all + new), by time", mine, name, other)


def _orders(judged: Examples, models: dict[str, Array], factor: float) -> dict[str, Array]:
    """Scores of the evaluated candidates by each order; models weigh new products by ``factor``."""
    orders = {name: each * np.where(judged.new, factor, 1) for name, each in models.items()}
    return orders | simple_orders(judged, PAGE_SIZE)


def _train(examples: Examples, columns: list[str], settings: RankerSettings, seed: int) -> lightgbm.Booster:
    features = examples.features[:, [FEATURES.index(name) for name in columns]]
    return fit_trees(features, examples.bought, examples.weight, columns, settings, seed)


def fit_trees(
    features: Array, bought: Array, weight: Array, columns: list[str], settings: RankerSettings, seed: int
) -> lightgbm.Booster:
    """Fit LightGBM to n examples: float32 [n, columns], bool [n] and float32 [n]."""
    data = lightgbm.Dataset(features, label=bought, weight=weight, feature_name=columns)
    parameters = {
        # LambdaMART (objective lambdarank) is no better for all purchases, worse for new ones, and takes twice as long;
        # its scores are not comparable between shoppers.
        "objective": "binary",
        "num_leaves": settings.leaves,
        "learning_rate": settings.learning_rate,
        "min_data_in_leaf": min(100, max(1, len(bought) // 100)),
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "feature_fraction": 0.6,
        "lambda_l2": 10.0,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        # The histograms are small, so a second thread mostly waits; on a busy machine it is four times slower.
        "num_threads": 1,
        "verbosity": -1,
    }
    return lightgbm.train(parameters, data, num_boost_round=settings.trees)


def _predict(booster: lightgbm.Booster, examples: Examples, columns: list[str]) -> Array:
    features = examples.features[:, [FEATURES.index(name) for name in columns]]
    return np.asarray(booster.predict(features, raw_score=True, num_threads=1))


def _calibrate(raw: Array, bought: Array) -> tuple[float, float]:
    """Fit sigmoid(scale * raw + shift) to the shares of candidates bought (Platt scaling)."""
    (scale,), shift = fit_logistic(raw[:, None], bought, intercept=True, prior=1 / len(raw))
    return float(max(scale, 1e-3)), shift


def _write_none(ctx: BuildContext, reason: str) -> dict[str, Any]:
    ctx.log(f"no ranking model: {reason}; pages are ranked without it")
    _write_meta(ctx, {"kind": "none", "reason": reason})
    return {"kind": "none", "reason": reason}


def _write_meta(ctx: BuildContext, meta: dict[str, Any]) -> None:
    (ctx.output / META_FILE).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
