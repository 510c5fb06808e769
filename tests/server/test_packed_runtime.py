"""The cross-encoder engine on the packed kernels: the checkpoint that OpenVINO runs, interpreted, gives the same."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import faiss
import numpy as np
import pytest
import tiny_encoders
from endcap_server.engines.bi_encoder import BiEncoder
from endcap_server.engines.cross_encoder import CrossEncoder, CrossEncoderRequest
from endcap_server.engines.encoder_runtime import EngineLoadError, RuntimeOptions
from endcap_server.engines.lexical import ProductWords, write_lexical
from endcap_server.engines.packed_runtime import micro_batches
from endcap_server.shop.store import ItemStore
from transformers import BertForSequenceClassification

TITLES = tiny_encoders.random_titles(30)
PACKED = RuntimeOptions(implementation="packed", precision="f32", token_budget=60)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from endcap_builders.export.encoder import export_cross_encoder

    folder = tmp_path_factory.mktemp("build")
    checkpoint = folder / "cross_encoder"
    torch.manual_seed(2)
    sizes = tiny_encoders.config(num_labels=1, hidden_size=64, num_attention_heads=2, initializer_range=0.2)
    model = BertForSequenceClassification(sizes).eval()
    model.save_pretrained(checkpoint)
    export_cross_encoder(model, checkpoint / "model.xml")
    tiny_encoders.write_tokenizer(checkpoint / "tokenizer.json")
    (checkpoint / "calibration.json").write_text('{"scale": 2.0, "temperature": 0.3}', encoding="utf-8")
    tiny_encoders.write_store(folder, checkpoint / "tokenizer.json", TITLES)
    return folder


def open_engine(build: Path, options: RuntimeOptions = PACKED) -> CrossEncoder:
    return CrossEncoder(build / "cross_encoder", ItemStore.open(build, linked=False), options)


def test_same_answers_as_openvino(build: Path) -> None:
    rows = np.array([[3, 7, -1], [0, 3, 29]], np.int32)
    requests = [
        CrossEncoderRequest(["oak table", "garden hose"], rows),
        CrossEncoderRequest(["red rug"], np.array([[5, 6]], np.int32)),
        CrossEncoderRequest([], np.zeros((0, 4), np.int32)),
        CrossEncoderRequest(["tea"], np.array([[30]], np.int32)),
    ]
    packed = open_engine(build)
    assert packed.precision == "f32"
    results = packed.run(requests)
    expected = open_engine(build, RuntimeOptions(precision="f32", threads=1)).run(requests)
    for got, wanted in zip(results[:3], expected[:3], strict=True):
        # OpenVINO's GELU is an approximation; the packed encoder itself is held against Hugging Face's to 1e-4.
        np.testing.assert_allclose(got.logits, wanted.logits, atol=2e-3)  # type: ignore[union-attr]
        np.testing.assert_allclose(got.scores, wanted.scores, atol=1e-3)  # type: ignore[union-attr]
        np.testing.assert_allclose(got.margins, wanted.margins, atol=2e-3)  # type: ignore[union-attr]
    assert "product rows 0..29" in str(results[3])


def test_late_pairs_are_dropped_between_micro_batches(build: Path) -> None:
    late = CrossEncoderRequest(["tea"], np.array([[1, 2]], np.int32), deadline_ns=time.monotonic_ns() - 1)
    timely = CrossEncoderRequest(["tea"], np.array([[1, 2]], np.int32))
    first, second = open_engine(build).run([late, timely])
    assert isinstance(first, TimeoutError)
    assert np.isfinite(second.scores).all()  # type: ignore[union-attr]


def test_micro_batches_are_within_the_budget() -> None:
    lengths = np.array([30, 30, 1, 70, 20, 40, 5])
    batches = micro_batches(lengths, 60)
    assert [rows.tolist() for rows in batches] == [[0, 1], [2], [3], [4, 5], [6]]
    assert micro_batches(lengths[:0], 60) == []


def test_a_folder_without_the_checkpoint_is_refused(build: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "calibration.json"):
        (tmp_path / name).write_bytes((build / "cross_encoder" / name).read_bytes())
    with pytest.raises(EngineLoadError, match=r"expected a Hugging Face checkpoint.*run endcap build cross_encoder"):
        CrossEncoder(tmp_path, ItemStore.open(build, linked=False), PACKED)


@pytest.fixture(scope="module")
def bi_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the build step writes it, without OpenVINO's files; `checkpoint` is what it was made of."""
    from endcap_builders.export.packed import export_sentence_checkpoint
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("bi-encoder")
    tiny_encoders.write_sentence_checkpoint(folder / "checkpoint", hidden_size=64, num_attention_heads=2)
    model = SentenceTransformer(str(folder / "checkpoint"), device="cpu")
    assert export_sentence_checkpoint(model, folder) == "mean"
    tiny_encoders.write_tokenizer(folder / "tokenizer.json")
    (folder / "encoder.json").write_text('{"dimension": 64, "max_tokens": 16, "pooling": "mean"}', encoding="utf-8")
    assert export_sentence_checkpoint(list(model)[:1], folder / "other") == ""
    assert not (folder / "other").exists()
    return folder


def test_vectors_are_those_of_sentence_transformers(bi_encoder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    packed = BiEncoder(bi_encoder, RuntimeOptions(implementation="packed", precision="f32", token_budget=40))
    assert packed.precision == "f32"
    expected = SentenceTransformer(str(bi_encoder / "checkpoint"), device="cpu").encode(TITLES[:7])
    # The weights are in float16, as in the files that OpenVINO runs.
    np.testing.assert_allclose(packed.encode(TITLES[:7]), expected, atol=2e-3)
    assert packed.encode([]).shape == (0, 64)


@pytest.mark.long
def test_the_third_call_measures_both_engines(build: Path, bi_encoder: Path, tmp_path: Path) -> None:
    """The command of the third call, with a whole small build and in the interpreter."""
    whole = tmp_path / "build"
    shutil.copytree(build, whole)
    shutil.copytree(bi_encoder, whole / "bi_encoder")
    (whole / "index").mkdir()
    vectors = np.random.default_rng(1).standard_normal((len(TITLES), 64)).astype(np.float32)
    for name in ("products", "keywords"):
        index = faiss.IndexFlatIP(64)
        index.add(vectors)
        faiss.write_index(index, str(whole / "index" / f"{name}.faiss"))
    (whole / "lexical").mkdir()
    write_lexical(whole / "lexical", (ProductWords(f"p{n}", title) for n, title in enumerate(TITLES)), "english")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.kernels.engines", "--build", str(whole), "--out", str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "engines.json").read_text(encoding="utf-8"))
    assert figures == {name: {"gpu": False, "requests": 1} for name in ("cross_encoder", "nearest")}


def test_a_bi_encoder_that_the_kernels_cannot_run_is_refused(bi_encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((bi_encoder / "tokenizer.json").read_bytes())
    (tmp_path / "encoder.json").write_text('{"dimension": 64, "max_tokens": 16}', encoding="utf-8")
    with pytest.raises(EngineLoadError, match="expected a bi-encoder that the kernels can run"):
        BiEncoder(tmp_path, PACKED)


def test_without_a_gpu_it_is_refused_in_one_sentence(build: Path) -> None:
    code = f"""
from pathlib import Path
from endcap_server.engines.cross_encoder import CrossEncoder
from endcap_server.engines.encoder_runtime import RuntimeOptions
from endcap_server.engines.packed_runtime import micro_batches
from endcap_server.shop.store import ItemStore
build = Path({str(build)!r})
CrossEncoder(build / "cross_encoder", ItemStore.open(build, linked=False), RuntimeOptions(implementation="packed"))
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "implementation packed: expected an NVIDIA GPU, found none; serve with --profile cpu" in done.stderr
