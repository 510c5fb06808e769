"""The engines that use the kernels, opened from a build: a request of `cross_encoder`, from texts to scores."""

import argparse
import json
import time
from pathlib import Path

import numpy as np

REPEATS = 200
PRODUCTS = 100


def main() -> int:
    """Measure the engines of a build; the result is `engines.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels.engines", description=main.__doc__)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    import torch
    from endcap_server.engines.cross_encoder import CrossEncoder, CrossEncoderRequest
    from endcap_server.engines.encoder_runtime import RuntimeOptions
    from endcap_server.shop.store import ItemStore

    store = ItemStore.open(options.build, linked=False)
    gpu = torch.cuda.is_available()
    runtime = RuntimeOptions(implementation="packed", token_budget=16384 if gpu else 512)
    engine = CrossEncoder(options.build / "cross_encoder", store, runtime)
    rng = np.random.default_rng(1)
    count = min(PRODUCTS if gpu else 2, len(store))
    times = []
    for number in range(options.repeats if gpu else 1):
        # Another text each time: the engine remembers scores.
        rows = rng.choice(len(store), (1, count), replace=False).astype(np.int32)
        began = time.perf_counter()
        (answer,) = engine.run([CrossEncoderRequest([f"search number {number}"], rows)])
        times.append(1000 * (time.perf_counter() - began))
        if isinstance(answer, Exception):
            raise answer
    figures: dict[str, float] = {"gpu": gpu, "pairs": count, "requests": len(times)}
    if gpu:
        figures |= {"p50_ms": float(np.median(times)), "p99_ms": float(np.quantile(times, 0.99))}
    (options.out / "engines.json").write_text(json.dumps({"cross_encoder": figures}), encoding="utf-8")
    print(figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
