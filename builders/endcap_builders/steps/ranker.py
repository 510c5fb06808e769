"""Step `ranker`: LightGBM on purchases after several days of the past, evaluated on the last weeks."""

import hashlib
import json
from pathlib import Path
from typing import Any

from endcap_builders.behaviour.ranker_settings import RankerSettings
from endcap_builders.catalogue.groups import EVENTS
from endcap_builders.step import BuildContext, Step
from endcap_builders.steps.store import WITHOUT_FACTS


def run(ctx: BuildContext, settings: RankerSettings) -> dict[str, Any]:
    """Train, evaluate and write `model.txt` and `ranker.json`; without a model only the latter, with the reason."""
    from endcap_builders.behaviour.ranker import build_ranker

    return build_ranker(ctx, settings)


def exposures_digest(settings: RankerSettings) -> str:
    """Digest of the names and sizes of the closed segments that the step reads; the open one changes all the time."""
    if not settings.exposures:
        return ""
    files = sorted((path.name, path.stat().st_size) for path in Path(settings.exposures).glob("*.parquet"))
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


STEP = Step(
    name="ranker",
    needs=("catalogue", "store", "behaviour"),
    settings=RankerSettings,
    run=run,
    digest=exposures_digest,
    on_refresh="learned",
    help="training the traditional ranker on the events",
    # Prices are inputs, so a new price is no reason to train again.
    reads={"catalogue": (EVENTS,), "store": WITHOUT_FACTS},
)
