"""Step ``topics``: the kinds of products that themes are about, and the kind of each product."""

from typing import Any

import numpy as np
from endcap_server.shop.columns import StringColumn, save_array
from endcap_server.shop.store import ItemStore

from endcap_builders.catalogue.groups import EVENTS
from endcap_builders.merchandising.statistics import topics_of
from endcap_builders.step import BuildContext, BuildError, Settings, Step
from endcap_builders.steps.store import WITHOUT_FACTS


def run(ctx: BuildContext, settings: Settings) -> dict[str, Any]:
    """Write what `endcap_server.shop.kinds` reads to describe shoppers; the training examples use the same names."""
    store = ItemStore.open(ctx.build)
    try:
        topics, restocked, affinity = topics_of(ctx.catalogue, store)
    except ValueError as error:
        raise BuildError(str(error)) from None
    StringColumn.write(ctx.output, "topics", [topic.name for topic in topics.topics])
    save_array(ctx.output, "product_topic", topics.of_product, np.int32)
    save_array(ctx.output, "topic_restocked", restocked, np.bool_)
    save_array(ctx.output, "topic_affinity", affinity, np.float32)
    figures = {"topics": len(topics), "restocked": int(restocked.sum())}
    ctx.log("{topics:,} topics, {restocked:,} of them restocked".format(**figures))
    return figures


STEP = Step(
    name="topics",
    needs=("catalogue", "store", "index"),
    settings=Settings,
    run=run,
    help="finding the kinds of products",
    # Prices, stock and the vectors' index are not read.
    reads={"catalogue": (EVENTS,), "store": WITHOUT_FACTS, "index": ("keyword_*",)},
)
