"""BERT, MPNet and XLM-R as bi-encoder, teacher and student: what is served equals Hugging Face's own computation."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from endcap_builders.relevance.checkpoints import load_model
from endcap_builders.relevance.distilling import write_student
from endcap_builders.relevance.encode import PairEncoder
from endcap_builders.relevance.inference import predict
from endcap_builders.relevance.pairs import make_pairs
from endcap_builders.relevance.student import head_from_teacher
from endcap_builders.relevance.teacher import RelevanceTeacher
from endcap_builders.step import build_context
from endcap_builders.steps.bi_encoder import BiEncoderSettings, run
from endcap_server.engines.bi_encoder import BiEncoder
from endcap_server.engines.cross_encoder import CrossEncoder, CrossEncoderRequest
from endcap_server.engines.encoder_runtime import RuntimeOptions
from endcap_server.shop.store import ItemStore
from rich.console import Console
from sentence_transformers import SentenceTransformer
from tiny_classes import CLASSES, write_encoder, write_sentence_encoder
from tiny_encoders import random_titles, write_store

TITLES = random_titles(12)
QUERIES = ["red lamp", "tea", "wool rug blue table oak"]


def by_huggingface(model: Any, tokenizer: Any, query: str, titles: list[str]) -> np.ndarray:
    """Logits of a query's pairs as the library joins and pads them."""
    batch = tokenizer([query] * len(titles), titles, padding=True, return_tensors="pt")
    with torch.no_grad():
        return np.asarray(model.eval()(**batch).logits)


@pytest.mark.parametrize("kind", CLASSES)
def test_pairs_are_joined_as_the_tokenizer_does(kind: str, tmp_path: Path) -> None:
    write_encoder(tmp_path, kind)
    torch.manual_seed(6)
    model, tokenizer = load_model(str(tmp_path), labels=3)
    encoder = PairEncoder.from_texts(tokenizer, TITLES, max_query_tokens=32, max_product_tokens=48)
    for query in QUERIES:
        pairs = make_pairs([query] * len(TITLES), np.arange(len(TITLES)), np.zeros(len(TITLES)))
        expected = by_huggingface(model, tokenizer, query, TITLES)
        # The body computes in bf16 where the CPU has it.
        np.testing.assert_allclose(predict(model, encoder.encode(pairs)), expected, atol=0.1)
        with torch.no_grad():
            batch = encoder.encode(pairs).batch(np.arange(len(TITLES)))
            np.testing.assert_allclose(np.asarray(model(**batch).logits), expected, atol=1e-5)


def test_the_exported_student_equals_huggingface(tmp_path: Path) -> None:
    """XLM-R; test_relevance_steps.py has a BERT and an MPNet."""
    write_encoder(tmp_path / "checkpoint", "xlm-roberta")
    torch.manual_seed(6)
    model, tokenizer = load_model(str(tmp_path / "checkpoint"), labels=1)
    folder = tmp_path / "build/cross_encoder"
    write_student(folder, model, tokenizer)
    (folder / "calibration.json").write_text("{}", encoding="utf-8")
    write_store(tmp_path / "build", folder / "tokenizer.json", TITLES)
    engine = CrossEncoder(folder, ItemStore.open(tmp_path / "build"), RuntimeOptions(threads=1))
    rows = np.tile(np.arange(len(TITLES), dtype=np.int32), (len(QUERIES), 1))
    (answer,) = engine.run([CrossEncoderRequest(QUERIES, rows)])
    assert not isinstance(answer, Exception)
    for query, logits in zip(QUERIES, answer.logits, strict=True):
        expected = by_huggingface(model, tokenizer, query, TITLES)[:, 0]
        np.testing.assert_allclose(logits, expected, atol=0.05)  # weights are stored as fp16
        assert np.corrcoef(logits, expected)[0, 1] > 0.999


@pytest.mark.parametrize("kind", CLASSES)
def test_a_student_starts_from_a_teacher_of_its_class(kind: str, tmp_path: Path) -> None:
    write_encoder(tmp_path / "checkpoint", kind)
    torch.manual_seed(6)
    grades = np.linspace(0, 1, 4)
    teacher = RelevanceTeacher(*load_model(str(tmp_path / "checkpoint"), labels=4), grades)
    teacher.save(tmp_path / "teacher")
    teacher = RelevanceTeacher.open(tmp_path / "teacher")
    student, tokenizer = load_model(str(tmp_path / "teacher"), labels=1)
    head_from_teacher(student, teacher)
    logits = by_huggingface(teacher.model, tokenizer, QUERIES[2], TITLES)
    expected = grades.mean() + logits @ (grades - grades.mean()) / 4
    np.testing.assert_allclose(by_huggingface(student, tokenizer, QUERIES[2], TITLES)[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["mpnet", "xlm-roberta"])
def test_the_exported_bi_encoder_equals_sentence_transformers(kind: str, tmp_path: Path) -> None:
    """test_store_step.py has a BERT."""
    checkpoint, work = tmp_path / "checkpoint", tmp_path / "build/bi_encoder"
    write_sentence_encoder(checkpoint, kind)
    work.mkdir(parents=True)
    context = build_context(tmp_path / "build", tmp_path, work, Console(file=io.StringIO()))
    assert run(context, BiEncoderSettings(checkpoint=str(checkpoint)))["dimension"] == 32
    expected = SentenceTransformer(str(checkpoint), device="cpu").encode([*TITLES, *QUERIES])
    found = BiEncoder(work, RuntimeOptions(threads=1)).encode([*TITLES, *QUERIES])
    np.testing.assert_allclose(found, expected, atol=2e-3)
