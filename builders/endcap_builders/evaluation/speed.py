"""Pairs per second of students in the serving engine, measured in alternation, so that load affects all alike."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from endcap_server.engines.cross_encoder import CrossEncoder, CrossEncoderRequest
from endcap_server.engines.encoder_runtime import RuntimeOptions
from endcap_server.shop.store import ItemStore

from endcap_builders.intervals import bootstrap
from endcap_builders.relevance.pairs import Pairs


def pairs_per_second(
    folders: dict[str, Path], store: ItemStore, pairs: Pairs, rounds: int, against: str
) -> dict[str, dict[str, Any]]:
    """Throughput of each student on the same pairs.

    Args:
        folders: folders of `write_student`, by name.
        store: the products.
        pairs: the pairs to score, as one request.
        rounds: number of rounds.
        against: name of the student that the others are compared with.

    Returns:
        By name: pairs_per_s (median), ratio to `against` with its bootstrap interval over the rounds, tokens of a pair.
    """
    engines = {name: CrossEncoder(folder, store, RuntimeOptions()) for name, folder in folders.items()}
    width = int(np.diff(pairs.offsets).max())
    rows = np.full((len(pairs.queries), width), -1, dtype=np.int32)
    for query, (start, end) in enumerate(zip(pairs.offsets[:-1], pairs.offsets[1:], strict=True)):
        rows[query, : end - start] = pairs.product[start:end]
    request = CrossEncoderRequest(pairs.queries, rows)
    taken: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(rounds + 1):
        names = list(engines)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            begun = time.perf_counter()
            (answer,) = engines[name].run([request])
            if isinstance(answer, Exception):
                raise answer
            if turn:  # the first round compiles kernels for these shapes
                taken[name].append(time.perf_counter() - begun)
    base = np.array(taken[against])
    return {name: _row(np.array(seconds), base, len(pairs)) for name, seconds in taken.items()}


def _row(seconds: np.ndarray, base: np.ndarray, pairs: int) -> dict[str, Any]:
    def ratio(rounds: np.ndarray) -> np.ndarray:
        return np.median(base[rounds], axis=1) / np.median(seconds[rounds], axis=1)

    return {
        "pairs_per_s": round(pairs / float(np.median(seconds)), 1),
        "ratio": bootstrap(ratio, len(seconds), 0).document(),
    }
