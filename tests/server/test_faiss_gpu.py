from pathlib import Path

import faiss
import numpy as np
import pytest
from endcap_server.engines.encoder_runtime import EngineLoadError
from endcap_server.engines.faiss_gpu import copy_rows, on_gpu

without_gpu = pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="about a FAISS without GPU support")


def unit(count: int, dimension: int = 24) -> np.ndarray:
    vectors = np.random.default_rng(6).standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["SQfp16", "IVF8,SQfp16"])
def test_a_flat_copy_finds_what_the_index_holds(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes to the GPU, checked with the flat index of the CPU; a part at a time."""
    monkeypatch.setattr("endcap_server.engines.faiss_gpu._COPY_ROWS", 130)
    vectors = unit(500)
    index = faiss.index_factory(24, kind, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    flat = faiss.IndexFlatIP(24)
    copy_rows(index, flat)
    assert flat.ntotal == 500
    searches = vectors[:40] + 0.05
    similarity, rows = flat.search(searches, 10)
    exact = np.argsort(-(searches @ vectors.T), axis=1)[:, :10]
    assert np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(rows, exact, strict=True)]) > 0.99
    np.testing.assert_allclose(similarity[:, 0], (searches @ vectors.T).max(axis=1), atol=2e-3)


def test_an_empty_index_stays_empty() -> None:
    flat = faiss.IndexFlatIP(24)
    copy_rows(faiss.index_factory(24, "SQfp16", faiss.METRIC_INNER_PRODUCT), flat)
    assert flat.ntotal == 0


@without_gpu
def test_faiss_without_gpu_support() -> None:
    with pytest.raises(EngineLoadError, match=r"faiss_device gpu: expected a FAISS with GPU support, got faiss-cpu"):
        on_gpu({"products": faiss.IndexFlatIP(24)})


def test_unknown_device(tmp_path: Path) -> None:
    from endcap_server.engines.nearest import Nearest

    with pytest.raises(EngineLoadError, match="faiss_device: expected cpu, gpu or kernels, got 'tpu'"):
        Nearest(tmp_path, faiss_device="tpu")
