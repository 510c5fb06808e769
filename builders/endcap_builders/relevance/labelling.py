"""A model scores pairs as a batch job: files of pairs in, files of scores out, here or on a Ray cluster.

A job is a folder of Parquet files of pairs (`query`, `product`: a row of the item store). For each, a file of the same
name with a column `score` is written atomically. An interrupted job continues with the missing files, and no pair is
lost or scored twice. The model runs in this process or in the actors of a Ray cluster with the same file system. The
teacher labels training pairs in this way, and the cross-encoder scores postings.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl

from endcap_builders.ray_cluster import on_ray
from endcap_builders.relevance.pairs import Pairs, RelevanceError
from endcap_builders.relevance.training import Track

_SAY_SECONDS = 15.0


class Labeller(Protocol):
    """Scores pairs. It is pickled for other processes, so it should load its model at the first use."""

    @property
    def model(self) -> str:
        """The build step of the model, for messages."""

    def scores(self, queries: list[str], products: np.ndarray) -> np.ndarray:
        """Scores float [n] of pairs: query text and product row int32 [n] of each."""


@dataclass(frozen=True)
class Done:
    """Result of a job."""

    pairs: int
    seconds: float

    @property
    def pairs_per_second(self) -> float:
        """Throughput of this run, without existing files."""
        return self.pairs / self.seconds if self.seconds > 0 else 0.0


def label_pairs(
    pairs: Pairs,
    labeller: Labeller,
    folder: Path,
    track: Track,
    *,
    shard_pairs: int = 1024,
    ray_address: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> Pairs:
    """Give every pair without a target the teacher's score.

    Args:
        pairs: pairs; those with a target keep it.
        labeller: the teacher.
        folder: folder of the job. File names have a digest of the pairs; files of other pairs are ignored.
        track: progress bar.
        shard_pairs: pairs per file; an interruption loses at most one file.
        ray_address: see `label_folder`.
        say: called with the throughput.

    Raises:
        RelevanceError: the model returns a score that is not finite, or the wrong number of scores.
    """
    todo = np.flatnonzero(np.isnan(pairs.target))
    shards = [todo[start : start + shard_pairs] for start in range(0, len(todo), shard_pairs)]
    names = [f"{number:05d}-{_digest(pairs, indices)}.parquet" for number, indices in enumerate(shards)]
    for name, indices in zip(names, shards, strict=True):
        frame = pl.DataFrame(
            {"query": [pairs.queries[index] for index in pairs.query[indices]], "product": pairs.product[indices]}
        )
        write_whole(frame, folder / "pairs" / name)
    done = label_folder(folder, labeller, track, names=names, ray_address=ray_address, say=say)
    target = pairs.target.copy()
    for name, indices in zip(names, shards, strict=True):
        target[indices] = pl.read_parquet(folder / "labels" / name)["score"].to_numpy()
    if done.pairs:
        say(f"{done.pairs:,} pairs labelled in {done.seconds:.0f} s, {done.pairs_per_second:,.0f} pairs/s")
    return pairs.with_target(target)


def label_folder(
    folder: Path,
    labeller: Labeller,
    track: Track,
    *,
    names: Iterable[str] | None = None,
    ray_address: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> Done:
    """Label the files of `folder`/pairs that `folder`/labels lacks.

    Args:
        folder: folder of the job.
        labeller: the teacher.
        track: progress bar over the files.
        names: files to label; all if not given.
        ray_address: address of a Ray cluster whose nodes can read `folder`; "local" starts one on this machine; ""
            labels in this process.
        say: called with throughput and time left from time to time.
    """
    names = sorted(path.name for path in (folder / "pairs").glob("*.parquet")) if names is None else list(names)
    todo = [name for name in names if not _labelled(folder, name)]
    start, pairs, said = time.monotonic(), 0, time.monotonic()
    results = _on_ray(folder, todo, labeller, ray_address) if ray_address and todo else _here(folder, todo, labeller)
    for done, count in enumerate(track(results, f"{labeller.model} scores pairs", len(todo)), 1):
        pairs += count
        if time.monotonic() - said > _SAY_SECONDS:
            said = time.monotonic()
            left = (said - start) * (len(todo) - done) / done
            say(f"{pairs:,} pairs scored, {pairs / (said - start):,.0f} pairs/s, {left:.0f} s left")
    return Done(pairs, time.monotonic() - start)


def label_file(folder: Path, name: str, labeller: Labeller) -> int:
    """Label one file of pairs; returns their number."""
    frame = pl.read_parquet(folder / "pairs" / name)
    scores = np.asarray(labeller.scores(frame["query"].to_list(), frame["product"].to_numpy()), dtype=np.float32)
    _check(scores, frame, labeller.model)
    write_whole(frame.with_columns(pl.Series("score", scores)), folder / "labels" / name)
    return frame.height


def write_whole(frame: pl.DataFrame, path: Path) -> None:
    """Write a Parquet file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.new")
    frame.write_parquet(temporary)
    os.replace(temporary, path)


class FileLabeller:
    """Code of a cluster's actor: a batch of a data set whose rows are names of files."""

    def __init__(self, folder: str, labeller: Labeller) -> None:
        self._folder, self._labeller = Path(folder), labeller

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Label the files of `name`; `pairs` has their numbers of pairs, `problem` the reasons of failures."""
        counts, problems = [], []
        for name in batch["name"]:
            try:
                counts.append(label_file(self._folder, str(name), self._labeller))
                problems.append("")
            except RelevanceError as error:
                # Returned as data, because the cluster would wrap an exception and retry.
                counts.append(0)
                problems.append(str(error))
        return {"pairs": np.array(counts, dtype=np.int64), "problem": np.array(problems, dtype=object)}


def _here(folder: Path, names: list[str], labeller: Labeller) -> Iterator[int]:
    for name in names:
        yield label_file(folder, name, labeller)


def _on_ray(folder: Path, names: list[str], labeller: Labeller, address: str) -> Iterator[int]:
    items = [{"name": name} for name in names]
    for row in on_ray(items, FileLabeller, (str(folder.resolve()), labeller), address):
        if row["problem"]:
            raise RelevanceError(row["problem"])
        yield int(row["pairs"])


def _labelled(folder: Path, name: str) -> bool:
    """Whether a file has complete labels of its pairs."""
    try:
        pairs = pl.read_parquet(folder / "pairs" / name, columns=["query", "product"])
        labels = pl.read_parquet(folder / "labels" / name, columns=["query", "product", "score"])
    except (pl.exceptions.PolarsError, OSError):
        return False
    return labels.drop("score").equals(pairs)


def _check(scores: np.ndarray, frame: pl.DataFrame, model: str) -> None:
    if scores.shape != (frame.height,):
        raise RelevanceError(f"{model}: expected {frame.height} scores, got an array of shape {scores.shape}")
    if not np.isfinite(scores).all():
        place = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise RelevanceError(
            f"{model}: expected a finite score, got NaN or infinity for query {frame['query'][place]!r}, "
            f"product row {frame['product'][place]}; build {model} again with a lower learning_rate"
        )


def _digest(pairs: Pairs, indices: np.ndarray) -> str:
    digest = hashlib.blake2s(pairs.product[indices].astype("<i4").tobytes(), digest_size=8)
    for index in pairs.query[indices]:
        digest.update(pairs.queries[index].encode())
        digest.update(b"\0")
    return digest.hexdigest()
