"""Jobs on a Ray cluster of this machine, labelling and postings: the same files as without it."""

import os
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from endcap_builders.relevance.labelling import label_folder, label_pairs
from endcap_builders.relevance.pairs import RelevanceError, make_pairs
from posted_shop import PostedShop

# Ray's own sockets and processes end when it is shut down, not when the test does.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning",
                                        "ignore::FutureWarning", "ignore::DeprecationWarning")  # fmt: skip


class ByRow:
    """A teacher that scores by the product's row, and notes in which process."""

    model = "teacher"

    def __init__(self, notes: Path, worst: int = -1) -> None:
        self.notes, self.worst = notes, worst

    def scores(self, queries: list[str], products: np.ndarray) -> np.ndarray:
        with (self.notes / f"{os.getpid()}").open("a", encoding="utf-8") as file:
            file.write("".join(f"{row}\n" for row in products))
        return np.where(products == self.worst, np.nan, products / 100 + 0.25)


def track(items, description, total=None):
    return items


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    # The cluster's processes cannot import this file.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_cluster_labels_what_is_missing_and_nothing_twice(tmp_path):
    pairs = make_pairs([f"query {row // 5}" for row in range(40)], np.arange(40), np.full(40, np.nan))
    notes = tmp_path / "notes"
    notes.mkdir()
    with pytest.raises(RelevanceError, match="finite score, got NaN or infinity for query 'query 5'"):
        label_pairs(pairs, ByRow(notes, worst=25), tmp_path / "job", track, shard_pairs=10, ray_address="auto")
    before = {path.name for path in (tmp_path / "job/labels").glob("*.parquet")}
    assert len(before) < 4
    labelled = label_pairs(pairs, ByRow(notes), tmp_path / "job", track, shard_pairs=10, ray_address="auto")
    np.testing.assert_allclose(labelled.target, np.arange(40) / 100 + 0.25, rtol=1e-6)
    rows = pl.concat([pl.read_parquet(path) for path in (tmp_path / "job/labels").glob("*.parquet")])
    assert sorted(rows["product"].to_list()) == list(range(40))
    assert str(os.getpid()) not in {path.name for path in notes.iterdir()}
    # Without the cluster there is nothing left to do.
    assert label_folder(tmp_path / "job", ByRow(notes), track).pairs == 0
    assert str(os.getpid()) not in {path.name for path in notes.iterdir()}


@pytest.mark.usefixtures("cluster")
def test_cluster_scores_the_same_postings(tiny_cross_encoder, tmp_path):
    here, there = (PostedShop(tmp_path / name, tiny_cross_encoder) for name in ("here", "there"))
    there.settings = {**there.settings, "ray": "auto"}
    assert here.run() == there.run()
    np.testing.assert_array_equal(here.postings.rows, there.postings.rows)
    for name in ("logits", "kind_logits"):
        np.testing.assert_allclose(getattr(here.postings, name), getattr(there.postings, name), atol=5e-3)
