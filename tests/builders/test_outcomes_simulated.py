"""Intervals of simulated experiments with a known effect: they cover it, and CUPED narrows them."""

import numpy as np
from endcap_builders.outcomes.attribution import attribute, with_outcomes
from endcap_builders.outcomes.trial import find_trial, run_trial
from simulated_shop import WINDOW, SimulatedShop

RUNS = 100


def test_intervals_cover_the_effect_and_cuped_narrows_them() -> None:
    shop = SimulatedShop()
    truths = {"difference": shop.difference, "ratio": 1 + shop.lift}
    covered = dict.fromkeys([(how, name) for how in ("plain", "cuped") for name in truths], 0)
    narrower, rates = [], []
    for seed in range(RUNS):
        shown, events = shop.run(seed)
        pages = with_outcomes(shown.pages, attribute(shown.pages, shown.products, events, WINDOW), ["page"])
        trial = find_trial(pages, None)
        assert trial is not None
        assert (trial.control, trial.treatment) == (1, 2)
        document, warnings = run_trial(pages, events, trial, WINDOW, shop.share)
        assert warnings == []
        carts = document["metrics"]["carts"]
        for how, name in covered:
            found = carts[how][name]
            covered[how, name] += found["low"] <= truths[name] <= found["high"]
        narrower.append(carts["narrower"])
        rates.append(carts["control"])
    assert min(covered.values()) >= 93, covered
    assert min(narrower) > 0
    assert np.mean(narrower) > 0.2
    # The truth is the expectation of what is simulated.
    assert abs(np.mean(rates) - shop.control_rate) < 4 * np.std(rates) / np.sqrt(RUNS)
