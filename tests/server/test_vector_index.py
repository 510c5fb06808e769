from pathlib import Path

import faiss
import numpy as np
import pytest
from endcap_server.engines import vector_index
from endcap_server.engines.allowed_rows import AllowedRows
from endcap_server.engines.encoder_runtime import EngineLoadError
from endcap_server.engines.vector_index import VectorIndex

N, D = 6000, 48
KINDS = ("Flat", "SQfp16", "IVF32,SQfp16")


def unit(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, D)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS, SEARCHES = unit(N, 1), unit(20, 2)


@pytest.fixture(scope="module", params=KINDS)
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VectorIndex:
    built = faiss.index_factory(D, request.param, faiss.METRIC_INNER_PRODUCT)
    built.train(VECTORS)
    built.add(VECTORS)
    if isinstance(built, faiss.IndexIVF):
        built.nprobe = 12
    path = tmp_path_factory.mktemp("index") / "products.faiss"
    faiss.write_index(built, str(path))
    return VectorIndex.read(path)


def recall(found: np.ndarray, allowed: np.ndarray, k: int) -> float:
    of_allowed = np.flatnonzero(allowed)
    if not (k := min(k, len(of_allowed))):
        return 1.0
    exact = of_allowed[np.argsort(-(SEARCHES @ VECTORS[of_allowed].T), axis=1)[:, :k]]
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(found, exact, strict=True)]))


@pytest.mark.parametrize("always_exact", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.3, 0.999])
def test_every_allowed_product_asked_for_is_found(
    index: VectorIndex, share: float, always_exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Narrow and broad filters, where every allowed row is compared and where the index decides which."""
    if not always_exact:
        monkeypatch.setattr(vector_index, "_EXACT_ROWS", 0)
        monkeypatch.setattr(vector_index, "_EXACT_SHARE", 0.0)
    allowed = np.random.default_rng(3).random(N) < share
    rows, similarity = index.search(SEARCHES, 100, AllowedRows.of(allowed))
    given = rows >= 0
    assert allowed[rows[given]].all()
    assert (given.sum(axis=1) == min(100, allowed.sum())).all()
    assert (np.isnan(similarity) == ~given).all()
    assert (np.diff(np.where(given, similarity, -2), axis=1) <= 1e-6).all()
    assert recall(rows, allowed, 100) > (0.99 if always_exact and "IVF" not in str(type(index.index)) else 0.6)


def test_a_gpu_without_filters_finds_what_is_allowed() -> None:
    """The GPU's flat index takes no filter; the CPU's stands for it here, and is given none."""
    flat = faiss.IndexFlatIP(D)
    flat.add(VECTORS)

    class Unfiltered:
        def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            assert k <= 2048
            found: tuple[np.ndarray, np.ndarray] = flat.search(vectors, k)
            return found

    index = VectorIndex(flat, Unfiltered())
    for share in (0.001, 0.2, 0.95):
        allowed = np.random.default_rng(4).random(N) < share
        rows, _ = index.search(SEARCHES, 50, AllowedRows.of(allowed))
        assert recall(rows, allowed, 50) > 0.999


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineLoadError, match="expected an index, found none; run endcap build index"):
        VectorIndex.read(tmp_path / "products.faiss")
    (tmp_path / "products.faiss").write_bytes(b"no index at all")
    with pytest.raises(EngineLoadError, match="expected a FAISS index"):
        VectorIndex.read(tmp_path / "products.faiss")


def test_the_kernel_finds_what_faiss_finds() -> None:
    """In Triton's interpreter without a GPU."""
    from endcap_server.engines.kernel_index import KernelIndex

    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((200, 32)).astype(np.float16).astype(np.float32)
    flat = faiss.IndexFlatIP(32)
    flat.add(vectors)
    on_cpu, on_kernels = VectorIndex(flat), VectorIndex(flat, kernels=KernelIndex(flat))
    queries = rng.standard_normal((2, 32)).astype(np.float32)
    for allowed in (None, AllowedRows.of(rng.random(200) < 0.03)):
        expected, got = (index.search(queries, 12, allowed) for index in (on_cpu, on_kernels))
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_allclose(got[1], expected[1], atol=1e-4)
    with pytest.raises(EngineLoadError, match="faiss_device kernels: expected a multiple of 16 dimensions, got 8"):
        KernelIndex(faiss.IndexFlatIP(8))
