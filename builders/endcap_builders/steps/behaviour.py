"""Step `behaviour`: tables of recent sales, repeat purchases and co-purchases from the events."""

from typing import Any

import numpy as np
from endcap_server.shop.behaviour import Behaviour
from endcap_server.shop.store import ItemStore

from endcap_builders.behaviour.log import EventLog
from endcap_builders.behaviour.tables import BehaviourSettings, behaviour_of
from endcap_builders.catalogue.groups import EVENTS
from endcap_builders.step import BuildContext, Step
from endcap_builders.steps.store import WITHOUT_FACTS


def run(ctx: BuildContext, settings: BehaviourSettings) -> dict[str, Any]:
    """Write the tables; without events, tables of zeros."""
    store = ItemStore.open(ctx.build, linked=False)
    tables = Behaviour.empty(len(store))
    events = 0
    if ctx.catalogue.events is not None and ctx.catalogue.events.height:
        log = EventLog.read(ctx.catalogue.events, store)
        events = len(log)
        if events:
            tables = behaviour_of(log, int(log.day.max()) + 1, np.asarray(store.category), settings)
    tables.write(ctx.output)
    figures = {
        "events": events,
        "products_sold": int((tables.bought > 0).sum()),
        "products_with_neighbours": int((tables.neighbour[:, 0] >= 0).sum()),
        "mean_repeat": round(float(tables.repeat[tables.bought > 0].mean()), 4) if tables.bought.any() else 0.0,
    }
    ctx.log(
        f"{figures['products_sold']:,} products sold, {figures['products_with_neighbours']:,} with neighbours; "
        f"bought again by {figures['mean_repeat']:.1%} of their buyers on average"
    )
    return figures


STEP = Step(
    name="behaviour",
    needs=("catalogue", "store"),
    settings=BehaviourSettings,
    run=run,
    help="counting what shoppers did",
    shapes=dict.fromkeys(BehaviourSettings.model_fields, ("ranker",)),
    # Behaviour does not depend on present prices and stock.
    reads={"catalogue": (EVENTS,), "store": WITHOUT_FACTS},
)
