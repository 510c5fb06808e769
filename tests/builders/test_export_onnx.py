from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_encoders
import tiny_llm
import torch
from endcap_builders.export.encoder import CandidateLogits
from endcap_builders.export.onnx import (
    Precision,
    export_candidate_logits_onnx,
    export_cross_encoder_onnx,
    export_sentence_encoder_onnx,
)
from endcap_builders.llm.student import make_student
from endcap_server.engines import openvino_cpu
from endcap_server.shop.prompts import CANDIDATE_TOKENS
from transformers import BertForSequenceClassification


def run(path: Path, feed: dict[str, np.ndarray]) -> np.ndarray:
    """Compute an ONNX file on the CPU; OpenVINO reads it, since TensorRT needs a GPU."""
    compiled = openvino_cpu.core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(feed)[0])


def feed_of(lengths: list[int], seed: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = rng.integers(5, 40, mask.shape) * mask
    types = (np.arange(max(lengths)) >= 2) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


@pytest.fixture(scope="module")
def model() -> BertForSequenceClassification:
    return tiny_encoders.cross_encoder()


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp16", 0.01), pytest.param("bf16", 0.06, marks=pytest.mark.long)]
)
def test_cross_encoder_equals_torch(
    model: BertForSequenceClassification, tmp_path: Path, precision: Precision, tolerance: float
) -> None:
    path = tmp_path / "model.onnx"
    inputs = export_cross_encoder_onnx(model, path, precision)
    graph = onnx.load(str(path))
    onnx.checker.check_model(graph, full_check=True)
    assert [each.name for each in graph.graph.input] == list(inputs)
    half = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    weights = {each.data_type for each in graph.graph.initializer if len(each.dims) == 2}
    assert weights - {onnx.TensorProto.INT64} == {half}
    assert graph.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT

    assert next(model.parameters()).dtype == torch.float32  # the caller's model is as it was
    for lengths in ([3], [40, 1, 17], [7] * 20):
        feed = feed_of(lengths)
        with torch.no_grad():
            expected = model(**{name: torch.from_numpy(value) for name, value in feed.items()}).logits.numpy()
        assert np.abs(run(path, feed) - expected).max() < tolerance * np.abs(expected).max()


def test_sentence_encoder_equals_torch(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    tiny_encoders.write_sentence_checkpoint(tmp_path / "checkpoint")
    model = SentenceTransformer(str(tmp_path / "checkpoint"), device="cpu")
    path = tmp_path / "model.onnx"
    export_sentence_encoder_onnx(model, ("input_ids", "attention_mask"), path)
    feed = {name: value for name, value in feed_of([12, 3, 30]).items() if name != "token_type_ids"}
    with torch.no_grad():
        expected = model({name: torch.from_numpy(value) for name, value in feed.items()})["sentence_embedding"].numpy()
    vectors = run(path, feed)
    assert vectors.dtype == np.float32
    assert (vectors * expected).sum(axis=1).min() > 0.9999


def test_candidate_logits_equal_torch(tmp_path: Path) -> None:
    examples = tiny_llm.keyword_examples(40)
    model, tokenizer = make_student(tiny_llm.TINY, examples, CANDIDATE_TOKENS)
    path = tmp_path / "model.onnx"
    inputs = export_candidate_logits_onnx(model, tokenizer, path, "fp16")
    graph = onnx.load(str(path))
    assert [each.name for each in graph.graph.input] == list(inputs)
    encoded = tokenizer([example.prompt for example in examples[:5]], padding=True, return_tensors="np")
    feed = {name: encoded[name].astype(np.int64) for name in inputs}
    with torch.no_grad():
        logits = CandidateLogits(model.eval(), tokenizer)
        expected = logits(**{name: torch.from_numpy(value) for name, value in feed.items()}).numpy()
    assert np.abs(run(path, feed) - expected).max() < 0.01 * np.abs(expected).max()
