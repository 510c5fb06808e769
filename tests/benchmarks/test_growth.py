"""The generated catalogues of bench_growth, and its report."""

import json
from pathlib import Path

import numpy as np
import pytest
from endcap_builders.catalogue import read_catalogue

from benchmarks import bench_growth, growth_catalogue
from benchmarks.growth_catalogue import UNSEEN, WordEncoder, write_growth_catalogue


def test_a_catalogue_of_any_size_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth_catalogue, "_BASES", 400)
    monkeypatch.setattr(growth_catalogue, "_SEARCHES", 400)
    write_growth_catalogue(tmp_path / "catalogue", 1000)
    read = read_catalogue(tmp_path / "catalogue")
    assert read.products.height == 1000
    assert read.products["title"].n_unique() > 990
    assert all(title.startswith(f"{brand} ") for title, brand in read.products.select("title", "brand").iter_rows())
    assert read.events is not None
    assert read.events.height == 1000
    assert read.queries is not None
    assert read.queries.height
    unseen = json.loads((tmp_path / UNSEEN).read_text(encoding="utf-8"))
    assert unseen
    assert not set(unseen) & set(read.queries["query"])


def test_vectors_of_texts_are_means_of_their_words() -> None:
    vectors = np.eye(3, 4)
    encoder = WordEncoder(["oak", "table", "rug"], vectors, ["oak table"], np.array([[0, 0, 0, 1.0]]))
    got = encoder.encode(["Oak rug", "rug 4711", "unheard"], "document")
    half = np.sqrt(0.5)
    np.testing.assert_allclose(got[:2], [[half, 0, half, 0], [0, 0, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(encoder.encode(["oak table", "oak"], "query"), [[0, 0, 0, 1], [1, 0, 0, 0]], atol=1e-6)


def test_the_report_compares_with_the_smallest_and_says_what_is_met() -> None:
    def found(search: float, page: float, memory: int) -> dict[str, dict[str, object]]:
        steps = {name: {"seconds": 2.0, "peak_mb": 300} for name in ("catalogue", "store", "index")}
        served = {"search_p50_ms": search, "page_p50_ms": page, "memory_mb": memory, "seconds": 1.0, "peak_mb": 1}
        return {**steps, "recall": {"recall_at_100": 0.99, "seconds": 1.0, "peak_mb": 1}, "serve": served}

    report = bench_growth._report({10: found(50, 100, 900), 1000: found(60, 140, 9000)})
    first, last = report["rows"]
    assert (first["search_ratio"], first["page_ratio"]) == (1.0, 1.0)
    assert (last["search_ratio"], last["page_ratio"], last["build_s"]) == (1.2, 1.4, 6.0)
    text = bench_growth._markdown(report)
    assert "search_ratio: 1.2, at most 1.3: met" in text
    assert "page_ratio: 1.4, at most 1.3: not met" in text
    assert "memory_mb: 9000, at most 8192: not met" in text
    assert "recall_at_100: 0.99, at least 0.98: met" in text
