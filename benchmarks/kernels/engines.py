"""The engines that use the kernels, opened from a build: requests of `cross_encoder` and `nearest`, from texts on."""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

REPEATS = 200
PRODUCTS = 100


def main() -> int:
    """Measure the engines of a build; the result is `engines.json`, written after each engine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels.engines", description=main.__doc__)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    import torch

    gpu = torch.cuda.is_available()
    figures: dict[str, dict[str, float]] = {}
    for name, opened in (("cross_encoder", scoring), ("nearest", searching)):
        figures[name] = {"gpu": gpu, **measured(opened(options.build, gpu), options.repeats if gpu else 1, gpu)}
        (options.out / "engines.json").write_text(json.dumps(figures), encoding="utf-8")
        print(name, figures[name], flush=True)
    return 0


def measured(request: Callable[[int], Any], repeats: int, timed: bool) -> dict[str, float]:
    """Answer requests of different texts; raises what an answer is, if that is an error. Times on a GPU only."""
    times = []
    for number in range(repeats):
        # Another text each time: the engines remember answers.
        began = time.perf_counter()
        (answer,) = request(number)
        times.append(1000 * (time.perf_counter() - began))
        if isinstance(answer, Exception):
            raise answer
    figures: dict[str, float] = {"requests": len(times)}
    if timed:
        figures |= {"p50_ms": float(np.median(times)), "p99_ms": float(np.quantile(times, 0.99))}
    return figures


def scoring(build: Path, gpu: bool) -> Callable[[int], Any]:
    """A request of 100 pairs of one text."""
    from endcap_server.engines.cross_encoder import CrossEncoder, CrossEncoderRequest
    from endcap_server.engines.encoder_runtime import RuntimeOptions
    from endcap_server.shop.store import ItemStore

    store = ItemStore.open(build, linked=False)
    runtime = RuntimeOptions(implementation="packed", token_budget=16384 if gpu else 512)
    engine = CrossEncoder(build / "cross_encoder", store, runtime)
    rows = _draws(len(store), min(PRODUCTS if gpu else 2, len(store)))
    return lambda number: engine.run([CrossEncoderRequest([f"search number {number}"], next(rows))])


def searching(build: Path, gpu: bool) -> Callable[[int], Any]:
    """The 100 products nearest to one text: bi-encoder and search on the GPU."""
    from endcap_server.engines.encoder_runtime import RuntimeOptions
    from endcap_server.engines.nearest import Nearest, NearestRequest

    engine = Nearest(build, RuntimeOptions(implementation="packed", token_budget=16384 if gpu else 512), "kernels")
    count = PRODUCTS if gpu else 2
    return lambda number: engine.run([NearestRequest(texts=[f"search number {number}"], k=count)])


def _draws(products: int, count: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(1)
    while True:
        yield rng.choice(products, (1, count), replace=False).astype(np.int32)


if __name__ == "__main__":
    raise SystemExit(main())
