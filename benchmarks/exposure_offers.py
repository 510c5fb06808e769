"""Hands exposures to the sink that fusion would open, in a process of its own, for `benchmarks.exposures`.

    python -m benchmarks.exposure_offers PAGES PAGES_PER_S PARAMETERS

The folder is `$ENDCAP_EXPOSURES_DIR`. It says how many pages it has handed over, and at the end the times of the calls;
it closes the sink when its standard input ends.
"""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from endcap_server.exposures.record import Exposure
from endcap_server.stages.exposing import open_sink
from endcap_server.stages.fusion_parameters import FusionParameters

SAID_EVERY = 50
_PLACEMENTS, _PRODUCTS = 4, 12


def products_of(number: int) -> tuple[str, ...]:
    """The products of a page."""
    return tuple(f"product-{number}-{place}" for place in range(_PLACEMENTS * _PRODUCTS))


def page(number: int) -> Exposure:
    """A page of four placements with twelve products each."""
    return Exposure(
        page_id=str(number),
        ensemble="storefront",
        shopper=f"{number % 100:032x}",
        time_ns=time.time_ns(),
        generation=1,
        query="",
        history=20,
        unknown_ids=0,
        placements=[{"source": "generated", "keywords": "ranked"}] * _PLACEMENTS,
        titles=["A title of some words"] * _PLACEMENTS,
        keywords=["keyword"] * 3 * _PLACEMENTS,
        products=products_of(number),
        score=np.ones((_PLACEMENTS, _PRODUCTS), np.float32),
    )


def offer(pages: int, pages_per_s: float, parameters: Mapping[str, Any]) -> None:
    """Hand over so many pages at a rate."""
    sink = open_sink(FusionParameters.model_validate(parameters))
    assert sink is not None, "the caller names a folder"
    took, started = [], time.perf_counter()
    for number in range(pages):
        time.sleep(max(0.0, started + number / pages_per_s - time.perf_counter()))
        exposure = page(number)
        before = time.perf_counter()
        sink.offer(exposure)
        took.append(time.perf_counter() - before)
        if (number + 1) % SAID_EVERY == 0:
            print(number + 1, flush=True)
    print(json.dumps({f"offer_p{share}_us": round(float(np.percentile(took, share)) * 1e6, 1) for share in (50, 99)}))
    sys.stdout.flush()
    sys.stdin.read()
    sink.close()


if __name__ == "__main__":
    offer(int(sys.argv[1]), float(sys.argv[2]), json.loads(sys.argv[3]))
