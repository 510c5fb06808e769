"""Step `postings`: scores of keywords, and of the names of kinds, with their products by the cross-encoder."""

from typing import Any

from endcap_server.shop.gates import GATES_FILE

from endcap_builders.relevance.settings import PostingsSettings
from endcap_builders.step import BuildContext, Step
from endcap_builders.steps.store import WITHOUT_FACTS


def run(ctx: BuildContext, settings: PostingsSettings) -> dict[str, Any]:
    """Write what `endcap_server.shop.postings` reads; nothing if the cross-encoder is not installed."""
    from endcap_builders.relevance.postings import build_postings

    return build_postings(ctx, settings)


STEP = Step(
    name="postings",
    needs=("store", "index", "topics", "cross_encoder", "gates"),
    settings=PostingsSettings,
    run=run,
    help="scoring keywords and kinds with their products",
    reads={
        "store": WITHOUT_FACTS,
        "index": ("keyword_products.npy",),
        "topics": ("topics.*", "product_topic.npy"),
        "cross_encoder": ("model.xml", "model.bin", "tokenizer.json", "calibration.json"),
        "gates": (GATES_FILE,),
    },
)
