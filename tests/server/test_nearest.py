import time
from collections.abc import Iterable
from pathlib import Path

import faiss
import numpy as np
import pytest
import tiny_encoders
from endcap_builders.export.encoder import export_sentence_encoder
from endcap_server.declared.errors import InvalidRequest
from endcap_server.engines.allowed_rows import LatestAllowed
from endcap_server.engines.encoder_runtime import EngineLoadError, RuntimeOptions
from endcap_server.engines.lexical import ProductWords, write_lexical
from endcap_server.engines.nearest import Nearest, NearestRequest, NearestResult

D = 32
TITLES = ("red lamp", "oak table", "green tea", "blue chair")


def write_index(path: Path, vectors: np.ndarray) -> None:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    path.parent.mkdir(exist_ok=True)
    faiss.write_index(index, str(path))


def unit(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, D)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sentence_transformers import SentenceTransformer

    build = tmp_path_factory.mktemp("build")
    tiny_encoders.write_sentence_checkpoint(build / "checkpoint")
    model = SentenceTransformer(str(build / "checkpoint"), device="cpu")
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    export_sentence_encoder(model, inputs, build / "bi_encoder" / "model.xml")
    tiny_encoders.write_tokenizer(build / "bi_encoder" / "tokenizer.json")
    (build / "bi_encoder" / "encoder.json").write_text('{"dimension": 32, "max_tokens": 16}', encoding="utf-8")
    write_index(build / "index" / "products.faiss", unit(200, seed=1))
    write_index(build / "index" / "keywords.faiss", unit(5, seed=2))
    (build / "lexical").mkdir()
    write_lexical(build / "lexical", (ProductWords(f"p{row}", TITLES[row % 4]) for row in range(200)), "english")
    return build


@pytest.fixture(scope="module")
def nearest(build: Path) -> Nearest:
    return Nearest(build, RuntimeOptions(threads=1, precision="f32"))


def bits(rows: Iterable[int], count: int = 200) -> np.ndarray:
    each = np.zeros(count, bool)
    each[list(rows)] = True
    return np.packbits(each, bitorder="little")


def answer(nearest: Nearest, *requests: NearestRequest) -> list[NearestResult]:
    answers = nearest.run(requests)
    assert all(isinstance(result, NearestResult) for result in answers), answers
    return [result for result in answers if isinstance(result, NearestResult)]


def test_vectors_find_themselves(nearest: Nearest) -> None:
    (result,) = answer(nearest, NearestRequest(vectors=3 * unit(200, seed=1)[[7, 3]], k=4))
    assert result.rows[:, 0].tolist() == [7, 3]
    np.testing.assert_allclose(result.similarity[:, 0], 1.0, atol=1e-5)
    assert (np.diff(result.similarity) <= 0).all()
    assert result.rows.dtype == np.int32
    np.testing.assert_allclose(np.linalg.norm(result.vectors, axis=1), 1.0, atol=1e-5)


def test_texts_are_encoded_and_compared(nearest: Nearest) -> None:
    texts = ["red lamp", "tea"]
    (result,) = answer(nearest, NearestRequest(texts, k=3))
    np.testing.assert_allclose(result.vectors, nearest.encoder.encode(texts), atol=1e-6)
    expected = result.vectors @ unit(200, seed=1).T
    np.testing.assert_array_equal(result.rows, np.argsort(-expected, axis=1)[:, :3])


def test_short_index_is_padded(nearest: Nearest) -> None:
    (result,) = answer(nearest, NearestRequest(["mug"], index="keywords", k=8))
    assert result.rows.shape == (1, 8)
    assert (result.rows[0, 5:] == -1).all()
    assert np.isnan(result.similarity[0, 5:]).all()
    assert not np.isnan(result.similarity[0, :5]).any()


def test_only_allowed_products_are_found(nearest: Nearest) -> None:
    search = unit(1, seed=9)
    (result,) = answer(nearest, NearestRequest(vectors=search, k=5, allowed=bits([3, 90, 199])))
    assert set(result.rows[0].tolist()) == {3, 90, 199, -1}
    assert result.rows[0, 0] == [3, 90, 199][int(np.argmax(unit(200, seed=1)[[3, 90, 199]] @ search[0]))]
    (nothing,) = answer(nearest, NearestRequest(vectors=search, k=5, allowed=bits([])))
    assert (nothing.rows == -1).all()


def test_what_may_be_shown_is_as_the_latest_request_says(nearest: Nearest) -> None:
    search = unit(1, seed=9)
    given = bits([3, 90])
    (first,) = answer(nearest, NearestRequest(vectors=search, k=2, allowed=given))
    given[:] = bits([4, 199])  # the memory of a request is used again
    (second,) = answer(nearest, NearestRequest(vectors=search, k=2, allowed=given))
    (again,) = answer(nearest, NearestRequest(vectors=search, k=2, allowed=bits([3, 90])))
    assert set(first.rows[0].tolist()) == {3, 90} == set(again.rows[0].tolist())
    assert set(second.rows[0].tolist()) == {4, 199}


def test_sets_of_rows_are_derived_once() -> None:
    latest = LatestAllowed(200)
    first = latest.of(bits([3, 90]))
    assert first is not None
    assert (first.count, first.share) == (2, 0.01)
    assert np.flatnonzero(first.each).tolist() == [3, 90]
    assert latest.of(None) is None
    for number in range(15):
        latest.of(bits([number]))
    assert latest.of(bits([3, 90])) is first
    for number in range(16):
        latest.of(bits([number]))
    assert latest.of(bits([3, 90])) is not first, "only the latest are kept"


def test_words_and_names(nearest: Nearest) -> None:
    (result,) = answer(nearest, NearestRequest(["lamps", "p7", "telescope"], index="words", k=4))
    assert {TITLES[row % 4] for row in result.rows[0].tolist()} == {"red lamp"}
    assert result.rows[1].tolist() == [7, -1, -1, -1]
    assert result.exact.tolist() == [[False] * 4, [True, False, False, False], [False] * 4]
    assert (result.rows[2] == -1).all()
    assert np.isnan(result.similarity[2]).all()
    (allowed,) = answer(nearest, NearestRequest(["lamps"], index="words", k=4, allowed=bits([4, 5])))
    assert allowed.rows.tolist() == [[4, -1, -1, -1]]


def test_encode_only(nearest: Nearest) -> None:
    (result,) = answer(nearest, NearestRequest(["mug", "rug"], index=None, k=0))
    assert result.vectors.shape == (2, D)
    assert result.rows.shape == (2, 0)


def test_requests_answered_together_equal_those_answered_alone(nearest: Nearest) -> None:
    requests = [
        NearestRequest(["red lamp", "oak"], k=3),
        NearestRequest(vectors=unit(2, seed=5), k=6),
        NearestRequest(["blue chair"], index="keywords", k=2),
        NearestRequest([], k=2),
        NearestRequest(["tea"], index=None),
        NearestRequest(["tea", "oak"], k=4, allowed=bits(range(0, 200, 3))),
        NearestRequest(["lamp"], k=2, allowed=bits(range(0, 200, 3))),
        NearestRequest(["lamp"], k=5, allowed=bits([7])),
        NearestRequest(["green tea", "p7 chair"], index="words", k=3),
        NearestRequest(["lamp"], index="words", k=3, allowed=bits([4, 5])),
    ]
    for request, result in zip(requests, answer(nearest, *requests), strict=True):
        (alone,) = answer(nearest, request)
        np.testing.assert_array_equal(result.rows, alone.rows)
        np.testing.assert_allclose(result.vectors, alone.vectors, atol=1e-5)
        np.testing.assert_array_equal(result.exact, alone.exact)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (NearestRequest(["a"], index="shops"), "INDEX: expected one of products, keywords, words, got 'shops'"),
        (
            NearestRequest(["a"], index="keywords", allowed=np.zeros(25, np.uint8)),
            "ALLOWED: expected INDEX products or words",
        ),
        (NearestRequest(["a"], allowed=np.zeros(24, np.uint8)), r"ALLOWED: expected shape \[25\], got \[24\]"),
        (NearestRequest(["a"], k=0), r"K: expected 1\.\.2000, got 0"),
        (NearestRequest(vectors=unit(1, 1), index="words"), "VECTOR: expected TEXT with INDEX words"),
        (NearestRequest(["a"], vectors=unit(1, 1)), "VECTOR: expected TEXT or VECTOR, got both"),
        (NearestRequest(vectors=np.zeros((1, 3))), r"VECTOR: expected shape \[T, 32\], got \[1, 3\]"),
        (NearestRequest(vectors=np.full((1, D), np.nan)), "VECTOR: expected finite numbers"),
    ],
)
def test_wrong_requests_are_refused_and_the_others_answered(
    nearest: Nearest, request_: NearestRequest, message: str
) -> None:
    refused, answered = nearest.run([request_, NearestRequest(["oak"], k=2)])
    assert isinstance(answered, NearestResult)
    with pytest.raises(InvalidRequest, match=message):
        raise refused  # type: ignore[misc]


def test_late_request(nearest: Nearest) -> None:
    late, answered = nearest.run(
        [NearestRequest(["oak"], deadline_ns=time.monotonic_ns() - 1), NearestRequest(["oak"], k=2)]
    )
    assert isinstance(late, TimeoutError)
    assert isinstance(answered, NearestResult)


def test_text_is_cut_at_the_longest(nearest: Nearest) -> None:
    cut, long = nearest.encoder.encode(["lamp " * 14, "lamp " * 400])
    np.testing.assert_allclose(cut, long, atol=1e-5)


def test_index_of_another_dimension(build: Path, tmp_path: Path) -> None:
    (tmp_path / "bi_encoder").symlink_to(build / "bi_encoder")
    for name in ("products", "keywords"):
        write_index(tmp_path / "index" / f"{name}.faiss", np.zeros((1, 7), np.float32))
    with pytest.raises(EngineLoadError, match=r"products\.faiss: expected 32 dimensions \(the bi-encoder's\), got 7"):
        Nearest(tmp_path)


def test_damaged_index(build: Path, tmp_path: Path) -> None:
    (tmp_path / "bi_encoder").symlink_to(build / "bi_encoder")
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "products.faiss").write_bytes(b"nonsense" * 10)
    with pytest.raises(EngineLoadError, match=r"products\.faiss: expected a FAISS index"):
        Nearest(tmp_path)
