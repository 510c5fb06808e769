"""Steps teacher and cross_encoder on a small shop with tiny encoders: trained, exported, calibrated, served."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from endcap_builders.relevance.checkpoints import load_model
from endcap_builders.relevance.encode import PairEncoder
from endcap_builders.relevance.inference import predict
from endcap_builders.relevance.pairs import make_pairs
from endcap_builders.relevance.teacher import RelevanceTeacher
from endcap_builders.step import BuildError
from endcap_server.engines.cross_encoder import CrossEncoder, CrossEncoderRequest
from endcap_server.engines.encoder_runtime import RuntimeOptions
from endcap_server.shop.store import ItemStore
from tiny_classes import write_encoder
from tiny_relevance import TITLES, copy_shop, pipeline, write_catalogue, write_shop


@pytest.fixture(scope="module")
def shop(made_once: Callable[[str, Callable[[Path], object]], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_shop(made_once("relevance_shop", write_shop), tmp_path_factory.mktemp("relevance"))
    pipeline(folder).run()
    return folder


def test_figures_say_what_was_done(shop):
    steps = json.loads((shop / "build/manifest.json").read_text(encoding="utf-8"))["steps"]
    assert steps["teacher"]["figures"]["labels"] == "judgements"
    figures = steps["cross_encoder"]["figures"]
    # Some of the mined pairs are judged ones too, so there are fewer than 12 * 8 only if queries repeat.
    assert 0 < figures["mined_pairs"] <= 12 * 8
    assert figures["labelled_pairs"] > 100
    assert figures["held_out"]["student"]["pairs"] > 0
    assert not (shop / "build/.work/cross_encoder").exists()


def test_teacher_learns_the_labels(shop):
    opened = RelevanceTeacher.open(shop / "build/teacher")
    items = ItemStore.open(shop / "build", linked=False)
    encoder = PairEncoder(opened.tokenizer, items.tokens.values, items.tokens.offsets, 32)
    lamp, rug = TITLES.index("red lamp"), TITLES.index("oak rug")
    scores = opened.scores(encoder.encode(make_pairs(["red lamp"] * 2, np.array([lamp, rug]), np.zeros(2))))
    assert scores.dtype == np.float32
    assert 0 <= scores.min() <= scores.max() <= 1
    assert scores[0] > scores[1]


def test_engine_serves_what_was_trained(shop):
    folder = shop / "build/cross_encoder"
    items = ItemStore.open(shop / "build", linked=False)
    rows = np.arange(20, dtype=np.int32)
    engine = CrossEncoder(folder, items, RuntimeOptions(threads=1, precision="f32"))
    (served,) = engine.run([CrossEncoderRequest(["oak desk"], rows[None])])
    model, tokenizer = load_model(str(folder), labels=1)
    encoder = PairEncoder(tokenizer, items.tokens.values, items.tokens.offsets, 32)
    encoded = encoder.encode(make_pairs(["oak desk"] * 20, rows, np.zeros(20)))
    with torch.inference_mode():
        exact = model.eval()(**encoded.batch(rows)).logits[:, 0].numpy()
    np.testing.assert_allclose(served.logits[0], exact, atol=2e-3)
    np.testing.assert_allclose(predict(model, encoded)[:, 0], exact, atol=0.05)


def test_checkpoint_loads_as_a_sentence_transformers_cross_encoder(shop):
    from sentence_transformers import CrossEncoder as Baseline

    baseline = Baseline(str(shop / "build/cross_encoder"), device="cpu")
    items = ItemStore.open(shop / "build", linked=False)
    engine = CrossEncoder(shop / "build/cross_encoder", items, RuntimeOptions(threads=1, precision="f32"))
    rows = np.arange(15, dtype=np.int32)
    (served,) = engine.run([CrossEncoderRequest(["blue chair"], rows[None])])
    scores = baseline.predict(
        [("blue chair", TITLES[row]) for row in rows], activation_fn=torch.nn.Identity(), show_progress_bar=False
    )
    np.testing.assert_allclose(scores, served.logits[0], atol=2e-3)


def test_catalogue_without_judgements_trains_on_weak_labels(shop, tmp_path):
    copy_shop(shop, tmp_path)
    (tmp_path / "catalogue").unlink()
    write_catalogue(tmp_path / "catalogue", None)
    built = pipeline(tmp_path, teacher={"weak_queries": 20, "epochs": 1}, cross_encoder={"mined_queries": 0}).run()
    figures = built["steps"]["teacher"]["figures"]
    assert figures["labels"].startswith("weak labels")
    assert figures["train_pairs"] > 50
    assert built["steps"]["cross_encoder"]["figures"]["mined_pairs"] == 0


def test_student_of_another_vocabulary_is_refused(shop):
    before = (shop / "build/cross_encoder/calibration.json").read_text(encoding="utf-8")
    with pytest.raises(
        BuildError, match=r"got another; .* run `endcap build store .* --set store.tokenizer=all-MiniLM-L6"
    ):
        pipeline(shop, cross_encoder={"checkpoint": "all-MiniLM-L6-v2"}).run("cross_encoder")
    with pytest.raises(BuildError, match="at least 9 layers"):
        pipeline(shop, cross_encoder={"layers": 9}).run("cross_encoder")
    assert (shop / "build/cross_encoder/calibration.json").read_text(encoding="utf-8") == before


def test_a_student_of_another_class_and_vocabulary_is_built_as_the_error_says(shop, tmp_path):
    copy_shop(shop, tmp_path)
    write_encoder(tmp_path / "mpnet", "mpnet")
    student = {"checkpoint": str(tmp_path / "mpnet"), "mined_queries": 2}
    changes = {"teacher": {"epochs": 1}, "cross_encoder": student}
    with pytest.raises(BuildError, match=f"set store.tokenizer={tmp_path / 'mpnet'}`, then build the rest"):
        pipeline(tmp_path, **changes).run()
    pipeline(tmp_path, **changes, store={"tokenizer": str(tmp_path / "mpnet")}).run()
    items = ItemStore.open(tmp_path / "build", linked=False)
    engine = CrossEncoder(tmp_path / "build/cross_encoder", items, RuntimeOptions(threads=1))
    rows = np.arange(15, dtype=np.int32)
    (served,) = engine.run([CrossEncoderRequest(["blue chair"], rows[None])])
    model, tokenizer = load_model(str(tmp_path / "build/cross_encoder"), labels=1)
    batch = tokenizer(["blue chair"] * 15, TITLES[:15], padding=True, return_tensors="pt")
    with torch.inference_mode():
        np.testing.assert_allclose(served.logits[0], model.eval()(**batch).logits[:, 0], atol=0.05)


def test_checkpoint_that_is_not_there_is_named(shop, tmp_path):
    with pytest.raises(BuildError, match="expected a Hugging Face checkpoint"):
        load_model(str(tmp_path / "nothing"), labels=1)
