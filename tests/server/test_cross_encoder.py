import time
from pathlib import Path

import numpy as np
import pytest
import tiny_encoders
import torch
from endcap_server.declared.errors import InvalidRequest
from endcap_server.engines.cross_encoder import CrossEncoder, CrossEncoderRequest, CrossEncoderResult
from endcap_server.engines.encoder_runtime import EngineLoadError, RuntimeOptions
from endcap_server.shop.margins import pairwise_margins
from endcap_server.shop.store import ItemStore
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification

TEXTS = ["red lamp", "garden hose", "", "wool rug for a small blue room"]
PRODUCTS = 40


@pytest.fixture(scope="module")
def model(
    tiny_cross_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, BertForSequenceClassification]:
    build = tmp_path_factory.mktemp("build")
    (build / "cross_encoder").symlink_to(tiny_cross_encoder)
    tiny_encoders.write_store(build, build / "cross_encoder" / "tokenizer.json", tiny_encoders.random_titles(PRODUCTS))
    return build, tiny_encoders.cross_encoder()


@pytest.fixture(scope="module")
def engine(model: tuple[Path, BertForSequenceClassification]) -> CrossEncoder:
    return make_engine(model[0])


def make_engine(build: Path, precision: str = RuntimeOptions.precision, **options: int) -> CrossEncoder:
    runtime = RuntimeOptions(threads=2, precision=precision, token_budget=64, **options)
    return CrossEncoder(build / "cross_encoder", ItemStore.open(build), runtime)


def answer(engine: CrossEncoder, *requests: CrossEncoderRequest) -> list[CrossEncoderResult]:
    answers = engine.run(requests)
    assert all(isinstance(result, CrossEncoderResult) for result in answers), answers
    return [result for result in answers if isinstance(result, CrossEncoderResult)]


def random_rows(texts: int, width: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).integers(-1, PRODUCTS, (texts, width))
    return rows.astype(np.int32)


def test_logits_are_those_of_the_model(model: tuple[Path, BertForSequenceClassification], engine: CrossEncoder) -> None:
    build, exported = model
    rows = random_rows(len(TEXTS), 9, seed=1)
    (result,) = answer(engine, CrossEncoderRequest(TEXTS, rows))
    tokenizer = Tokenizer.from_file(str(build / "cross_encoder" / "tokenizer.json"))
    titles = ItemStore.open(build).titles
    for text, own_rows, logits in zip(TEXTS, rows, result.logits, strict=True):
        for row, logit in zip(own_rows, logits, strict=True):
            if row < 0:
                assert np.isnan(logit)
                continue
            pair = tokenizer.encode(text, titles[int(row)])
            with torch.no_grad():
                expected = exported(
                    input_ids=torch.tensor([pair.ids]), token_type_ids=torch.tensor([pair.type_ids])
                ).logits.item()
            assert logit == pytest.approx(expected, abs=1e-2)  # weights are stored as fp16


def test_scores_and_margins_follow_from_logits(engine: CrossEncoder) -> None:
    (result,) = answer(engine, CrossEncoderRequest(TEXTS, random_rows(len(TEXTS), 12, seed=2)))
    np.testing.assert_allclose(result.scores, 1 / (1 + np.exp(-(2.0 * result.logits - 0.5))), atol=1e-6)
    np.testing.assert_array_equal(result.margins, pairwise_margins(result.logits, 0.3))
    assert result.scores.dtype == result.margins.dtype == np.float32


@pytest.mark.parametrize(("precision", "tolerance"), [(RuntimeOptions.precision, 1e-5), ("bf16", 0.05)])
def test_row_of_a_batch_equals_the_same_row_alone(
    model: tuple[Path, BertForSequenceClassification], precision: str, tolerance: float
) -> None:
    engine = make_engine(model[0], precision)
    rows = random_rows(len(TEXTS), 20, seed=3)
    (batch,) = answer(engine, CrossEncoderRequest(TEXTS, rows))
    for line, column in np.argwhere(rows >= 0)[::7]:
        (alone,) = answer(engine, CrossEncoderRequest([TEXTS[line]], rows[line : line + 1, column : column + 1]))
        assert alone.logits[0, 0] == pytest.approx(batch.logits[line, column], abs=tolerance)


def test_requests_answered_together_equal_those_answered_alone(engine: CrossEncoder) -> None:
    requests = [
        CrossEncoderRequest(TEXTS, random_rows(4, 7, seed=4)),
        CrossEncoderRequest(["oak desk"], random_rows(1, 30, seed=5)),
        CrossEncoderRequest([], np.zeros((0, 5), np.int32)),
        CrossEncoderRequest(["tea"], np.full((1, 3), -1, np.int32)),
        CrossEncoderRequest(["tea"], np.zeros((1, 0), np.int32)),
    ]
    together = answer(engine, *requests)
    for request, result in zip(requests, together, strict=True):
        (alone,) = answer(engine, request)
        assert result.scores.shape == request.rows.shape
        np.testing.assert_allclose(result.logits, alone.logits, atol=1e-5)


def test_streams_and_budgets_do_not_change_scores(model: tuple[Path, BertForSequenceClassification]) -> None:
    request = CrossEncoderRequest(TEXTS, random_rows(4, 25, seed=6))
    (one,) = answer(make_engine(model[0], streams=1), request)
    (two,) = answer(make_engine(model[0], streams=2), request)
    np.testing.assert_allclose(one.logits, two.logits, atol=1e-5)


def test_late_request_gets_an_error_and_the_others_an_answer(engine: CrossEncoder) -> None:
    rows = random_rows(1, 10, seed=7)
    late = CrossEncoderRequest(["lamp"], rows, deadline_ns=time.monotonic_ns() - 1)
    on_time = CrossEncoderRequest(["lamp"], rows, deadline_ns=time.monotonic_ns() + 60 * 10**9)
    answers = engine.run([late, on_time])
    assert isinstance(answers[0], TimeoutError)
    assert isinstance(answers[1], CrossEncoderResult)


def test_work_is_dropped_between_micro_batches(engine: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.tile(np.arange(PRODUCTS, dtype=np.int32), (1, 4))
    clock = iter(range(0, 1_000_000, 1_000))  # each look at the clock is a microsecond later
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(clock))
    late, on_time = engine.run([CrossEncoderRequest(["lamp"], rows, 3_000), CrossEncoderRequest(["lamp"], rows)])
    assert isinstance(on_time, CrossEncoderResult)
    assert isinstance(late, TimeoutError)
    dropped = int(str(late).split("with ")[1].split(" of")[0])
    assert 0 < dropped < rows.size


def test_long_text_is_cut(engine: CrossEncoder) -> None:
    rows = random_rows(1, 5, seed=8)
    (cut,) = answer(engine, CrossEncoderRequest(["lamp " * 32], rows))
    (long,) = answer(engine, CrossEncoderRequest(["lamp " * 500], rows))
    np.testing.assert_allclose(cut.logits, long.logits, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 3), np.int32), r"ROW: expected shape \[1, M\], one row a text, got \[2, 3\]"),
        (np.zeros(3, np.int32), r"ROW: expected shape \[1, M\]"),
        (np.zeros((1, 3), np.float32), "ROW: expected integers, got float32"),
        (np.array([[0, PRODUCTS]]), f"ROW: expected product rows 0..{PRODUCTS - 1}, or -1, got {PRODUCTS}"),
        (np.array([[0, -2]]), "got -2"),
    ],
)
def test_wrong_rows_are_refused_and_the_others_answered(engine: CrossEncoder, rows: np.ndarray, message: str) -> None:
    good = CrossEncoderRequest(["lamp"], random_rows(1, 4, seed=9))
    refused, answered = engine.run([CrossEncoderRequest(["lamp"], rows), good])
    assert isinstance(answered, CrossEncoderResult)
    with pytest.raises(InvalidRequest, match=message):
        raise refused  # type: ignore[misc]


def test_store_of_another_tokenizer(model: tuple[Path, BertForSequenceClassification], tmp_path: Path) -> None:
    tokenizer = tiny_encoders.write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer.add_tokens(["something"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "calibration.json").write_text("{}", encoding="utf-8")
    with pytest.raises(EngineLoadError, match="expected the tokenizer of the item store"):
        CrossEncoder(tmp_path, ItemStore.open(model[0]))


def test_wrong_calibration(model: tuple[Path, BertForSequenceClassification], tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text('{"temperature": 0}', encoding="utf-8")
    with pytest.raises(EngineLoadError, match=r"calibration\.json, temperature: Input should be greater than 0, got 0"):
        CrossEncoder(tmp_path, ItemStore.open(model[0]))
