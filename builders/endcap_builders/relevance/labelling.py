"""The teacher labels mined pairs, shard by shard: an interrupted job goes on with the first shard that is missing."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from endcap_builders.relevance.pairs import Pairs, RelevanceError
from endcap_builders.relevance.training import Track

Score = Callable[[np.ndarray], np.ndarray]
_COLUMNS = ("query", "product", "score")


def label_pairs(pairs: Pairs, score: Score, folder: Path, track: Track, *, shard_pairs: int = 1024) -> Pairs:
    """Give every pair without a target the teacher's score.

    Args:
        pairs: pairs; those with a target keep it.
        score: indices int [k] into `pairs` -> teacher scores float [k].
        folder: where the shards go. A shard names the pairs it holds by a digest: shards of other pairs, and
            shards that cannot be read, are labelled anew.
        track: progress bar.
        shard_pairs: pairs per shard, which is what an interruption can lose.

    Raises:
        RelevanceError: the teacher returns a score that is not finite, or the wrong number of scores.
    """
    folder.mkdir(parents=True, exist_ok=True)
    todo = np.flatnonzero(np.isnan(pairs.target))
    # Neighbours in a shard belong to few queries and similar lengths; the order is that of the pairs, so it is stable.
    shards = [todo[start : start + shard_pairs] for start in range(0, len(todo), shard_pairs)]
    target = pairs.target.copy()
    for number, indices in enumerate(track(shards, "teacher labels mined pairs", len(shards))):
        path = folder / f"{number:05d}-{_digest(pairs, indices)}.parquet"
        scores = _read_shard(path, pairs, indices)
        if scores is None:
            scores = np.asarray(score(indices), dtype=np.float32)
            _check(scores, pairs, indices)
            _write_shard(path, pairs, indices, scores)
        target[indices] = scores
    return pairs.with_target(target)


def _check(scores: np.ndarray, pairs: Pairs, indices: np.ndarray) -> None:
    if scores.shape != indices.shape:
        raise RelevanceError(f"teacher: expected {len(indices)} scores, got an array of shape {scores.shape}")
    if not np.isfinite(scores).all():
        place = indices[int(np.flatnonzero(~np.isfinite(scores))[0])]
        raise RelevanceError(
            f"teacher: expected a finite score, got NaN or infinity for query {pairs.queries[pairs.query[place]]!r}, "
            f"product row {pairs.product[place]}; build the teacher again with a lower learning_rate"
        )


def _digest(pairs: Pairs, indices: np.ndarray) -> str:
    digest = hashlib.blake2s(pairs.product[indices].astype("<i4").tobytes(), digest_size=8)
    for index in pairs.query[indices]:
        digest.update(pairs.queries[index].encode())
        digest.update(b"\0")
    return digest.hexdigest()


def _read_shard(path: Path, pairs: Pairs, indices: np.ndarray) -> np.ndarray | None:
    if not path.exists():
        return None
    try:
        shard = pl.read_parquet(path, columns=list(_COLUMNS))
    except (pl.exceptions.PolarsError, OSError):
        return None
    if shard.height != len(indices) or not np.array_equal(shard["product"].to_numpy(), pairs.product[indices]):
        return None
    return shard["score"].to_numpy()


def _write_shard(path: Path, pairs: Pairs, indices: np.ndarray, scores: np.ndarray) -> None:
    shard = pl.DataFrame(
        {
            "query": [pairs.queries[index] for index in pairs.query[indices]],
            "product": pairs.product[indices],
            "score": scores,
        }
    )
    temporary = path.with_suffix(".new")
    shard.write_parquet(temporary)
    os.replace(temporary, path)
