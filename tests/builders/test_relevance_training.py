"""Training by transformers' Trainer: time, checkpoints, early stopping, language models through LoRA, bad input."""

import json

import numpy as np
import pytest
import tiny_encoders
import torch
from endcap_builders.relevance.checkpoints import load_model, save_model, with_lora, without_lora
from endcap_builders.relevance.encode import PairEncoder
from endcap_builders.relevance.inference import predict
from endcap_builders.relevance.pairs import RelevanceError, make_pairs
from endcap_builders.relevance.reliability import reliability
from endcap_builders.relevance.student import train_student
from endcap_builders.relevance.teacher import RelevanceTeacher, train_teacher
from endcap_builders.relevance.training import Schedule, fit, length_grouped
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertForSequenceClassification,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

TITLES = [f"{colour} {thing}" for thing in ("lamp", "table", "desk", "rug") for colour in ("red", "blue", "oak")]


def track(items, description, total=None):
    return items


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    BertForSequenceClassification(tiny_encoders.config(num_labels=1)).save_pretrained(folder)
    tiny_encoders.write_tokenizer(folder / "tokenizer.json")
    BertTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")).save_pretrained(folder)
    return folder


def write_llama(folder):
    """A language model without a pad token, as most of them come."""
    words = ["<s>", "</s>", "<unk>", "a", *tiny_encoders.WORDS, *tiny_encoders.LETTERS[1:]]
    backend = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), bos_token_id=0, eos_token_id=1, **sizes)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return folder


def encoded_pairs(tokenizer, titles=TITLES):
    encoder = PairEncoder.from_texts(tokenizer, titles, max_query_tokens=12, max_product_tokens=12)
    words = ("lamp", "rug", "oak")
    rows = [(f"a {word}", row, float(word in title)) for word in words for row, title in enumerate(TITLES)]
    texts, products, targets = zip(*rows, strict=True)
    return encoder.encode(make_pairs(texts, np.array(products), np.array(targets)))


def batches_of(encoded, seed=0):
    units = [np.array([index]) for index in range(len(encoded.pairs))]
    return lambda epoch: length_grouped(encoded, units, 12, np.random.default_rng((seed, epoch)))


def squares(encoded):
    targets = torch.from_numpy(encoded.pairs.target)
    return lambda logits, indices: (logits[:, 0] - targets[torch.from_numpy(indices)]).square().mean()


def test_training_ends_after_its_steps_and_learns(checkpoint):
    model, tokenizer = load_model(str(checkpoint), labels=1)
    encoded = encoded_pairs(tokenizer)
    figures = fit(model, encoded, batches_of(encoded), squares(encoded), Schedule(200, 1e4, 3e-3), track, "training")
    assert figures["steps"] == 200
    assert figures["pairs"] == 200 * 12
    assert figures["last_loss"] < 0.5 * figures["first_loss"]
    assert not model.training


def test_checkpointing_changes_memory_not_the_result(checkpoint):
    """What a GPU does by default; device and checkpointing are parameters of the same code."""
    losses = []
    for checkpointing in (False, True):
        model, tokenizer = load_model(str(checkpoint), labels=1)
        torch.manual_seed(0)
        model.classifier.reset_parameters()
        encoded = encoded_pairs(tokenizer)
        rest = {"device": "cpu", "checkpointing": checkpointing}
        figures = fit(
            model, encoded, batches_of(encoded), squares(encoded), Schedule(12, 1e4, 1e-3), track, "training", **rest
        )
        losses.append((figures["first_loss"], figures["last_loss"]))
        assert not model.is_gradient_checkpointing
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_training_ends_on_time(checkpoint):
    model, tokenizer = load_model(str(checkpoint), labels=1)
    encoded = encoded_pairs(tokenizer)
    schedule = Schedule(10**6, 0.5, 1e-3)
    figures = fit(model, encoded, batches_of(encoded), squares(encoded), schedule, track, "training")
    assert 0 < figures["steps"] < 10**6


def test_interrupted_training_goes_on_from_its_checkpoint(checkpoint, tmp_path):
    seen = []

    def train(stop_at):
        model, tokenizer = load_model(str(checkpoint), labels=1)
        encoded = encoded_pairs(tokenizer)
        loss = squares(encoded)

        def watched(logits, indices):
            if len(seen) == stop_at:
                raise KeyboardInterrupt
            seen.append(indices.tolist())
            return loss(logits, indices)

        schedule = Schedule(20, 1e4, 1e-3, seed=3, checkpoint_seconds=0.0)
        return fit(model, encoded, batches_of(encoded), watched, schedule, track, "training", folder=tmp_path)

    with pytest.raises(KeyboardInterrupt):
        train(stop_at=8)
    figures = train(stop_at=-1)
    assert (figures["steps"], figures["pairs"]) == (20, 240)
    # Nothing was trained on twice, and no batch was left out: these are the batches of an uninterrupted training.
    encoded = encoded_pairs(load_model(str(checkpoint), labels=1)[1])
    expected = [indices.tolist() for epoch in range(7) for indices in batches_of(encoded)(epoch)][:20]
    assert seen == expected


def test_early_stopping_keeps_the_best_weights(checkpoint):
    model, tokenizer = load_model(str(checkpoint), labels=1)
    encoded = encoded_pairs(tokenizer)
    quality, weights = iter([0.5, 0.9, 0.6, 0.4, 0.3, 0.2]), []

    def validate(trained):
        weights.append(trained.classifier.weight.detach().clone())
        return next(quality)

    schedule = Schedule(60, 1e4, 1e-3, evaluations=6, patience=2)
    figures = fit(model, encoded, batches_of(encoded), squares(encoded), schedule, track, "training", validate=validate)
    assert figures["evaluations"] == [[10, 0.5], [20, 0.9], [30, 0.6], [40, 0.4]]
    assert (figures["best_step"], figures["steps"], figures["stopped_early"]) == (20, 40, True)
    torch.testing.assert_close(model.classifier.weight.detach(), weights[1])


def test_loss_that_is_not_finite_is_named(checkpoint):
    model, tokenizer = load_model(str(checkpoint), labels=1)
    encoded = encoded_pairs(tokenizer)
    with pytest.raises(RelevanceError, match=r"training: the loss became nan at step 0; lower learning_rate"):
        fit(model, encoded, batches_of(encoded), lambda logits, indices: logits.sum() * float("nan"),
            Schedule(5, 1e4, 1e-3), track, "training")  # fmt: skip


def test_teacher_may_be_a_language_model_with_lora(tmp_path):
    checkpoint = write_llama(tmp_path / "llama")
    model, tokenizer = load_model(str(checkpoint), labels=3)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    encoded = encoded_pairs(tokenizer)
    batch = encoded.batch(np.arange(4))
    assert set(batch) == {"input_ids", "attention_mask"}
    adapted = with_lora(model, rank=4)
    learning = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert learning
    assert all("lora" in name or "score" in name for name in learning)
    teacher, figures = train_teacher(
        encoded, adapted, tokenizer,
        grades=3, spread=0.0, schedule=Schedule(80, 1e4, 1e-2, evaluations=2), batch_size=12, track=track,
        validate=lambda trained: float(trained.scores(encoded).std()),
    )  # fmt: skip
    assert figures["last_loss"] < figures["first_loss"]
    teacher.save(tmp_path / "teacher")
    opened = RelevanceTeacher.open(tmp_path / "teacher")
    np.testing.assert_allclose(opened.scores(encoded), teacher.scores(encoded), atol=1e-3)
    names = set(json.loads((tmp_path / "teacher/config.json").read_text(encoding="utf-8"))["architectures"])
    assert names == {"LlamaForSequenceClassification"}
    merged = opened.model.state_dict()
    assert set(merged) == set(before)
    assert any(not torch.equal(merged[name], before[name]) for name in before if "q_proj" in name)


def test_model_without_adapters_is_left_as_it_is(checkpoint):
    model, _ = load_model(str(checkpoint), labels=1)
    assert without_lora(model) is model


def test_queries_of_one_product_and_equal_labels_train_without_a_margin(checkpoint):
    model, tokenizer = load_model(str(checkpoint), labels=1)
    encoder = PairEncoder.from_texts(tokenizer, TITLES, max_query_tokens=12, max_product_tokens=12)
    pairs = make_pairs(["lamp", "rug", "oak", "oak"], np.arange(4), np.array([1.0, 0.0, 0.5, 0.5]))
    options = {"anchor": 0.3, "group_size": 4, "schedule": Schedule(5, 1e4, 1e-3), "batch_size": 4, "track": track}
    figures = train_student(encoder.encode(pairs), model, **options)
    assert np.isfinite(figures["last_loss"])
    assert np.isfinite(predict(model, encoder.encode(pairs))).all()
    alone = make_pairs(["lamp", "rug"], np.arange(2), np.array([1.0, 0.0]))
    with pytest.raises(RelevanceError, match="at least two products, got 2 queries with one each"):
        train_student(encoder.encode(alone), model, **options)


def test_nan_of_the_teacher_is_refused_by_the_student(checkpoint):
    model, tokenizer = load_model(str(checkpoint), labels=1)
    encoder = PairEncoder.from_texts(tokenizer, TITLES, max_query_tokens=12, max_product_tokens=12)
    pairs = make_pairs(["oak", "oak"], np.arange(2), np.array([1.0, np.nan]))
    with pytest.raises(RelevanceError, match=r"finite teacher score for every pair, got nan for query 'oak'"):
        train_student(
            encoder.encode(pairs), model, anchor=0.3, group_size=4, schedule=Schedule(5, 1e4, 1e-3), batch_size=4,
            track=track,
        )  # fmt: skip


def test_empty_texts_are_read_as_empty(checkpoint, tmp_path):
    for folder in (checkpoint, write_llama(tmp_path / "llama")):
        model, tokenizer = load_model(str(folder), labels=1)
        encoder = PairEncoder.from_texts(tokenizer, ["", "red lamp"], max_query_tokens=12, max_product_tokens=12)
        encoded = encoder.encode(make_pairs(["", "", "lamp"], np.array([0, 1, 0]), np.zeros(3)))
        assert encoded.lengths.min() == encoder.format.extra
        assert np.isfinite(predict(model, encoded)).all()


def test_products_are_cut(checkpoint):
    _, tokenizer = load_model(str(checkpoint), labels=1)
    encoder = PairEncoder.from_texts(tokenizer, [*TITLES, ""], max_query_tokens=12, max_product_tokens=12)
    whole, cut = encoder.values, encoder.cut(1)
    assert np.diff(cut.offsets).tolist() == [1] * len(TITLES) + [0]
    assert cut.values.tolist() == whole[encoder.offsets[:-2]].tolist()


def test_checkpoint_survives_saving(checkpoint, tmp_path):
    model, tokenizer = load_model(str(checkpoint), labels=1)
    save_model(model, tokenizer, tmp_path)
    encoded = encoded_pairs(tokenizer)
    again = encoded_pairs(load_model(str(tmp_path), labels=1)[1])
    loaded = predict(load_model(str(tmp_path), labels=1)[0], again)
    np.testing.assert_allclose(loaded, predict(model, encoded), atol=1e-6)


def test_reliability_of_calibrated_and_of_overconfident_scores():
    rng = np.random.default_rng(0)
    truth = rng.random(20_000)
    labels = (rng.random(20_000) < truth).astype(float)
    honest = reliability(truth, labels)
    assert honest["ece"] < 0.02
    assert [row[0] for row in honest["curve"]] == pytest.approx([row[1] for row in honest["curve"]], abs=0.05)
    assert sum(row[2] for row in honest["curve"]) == 20_000
    sure = reliability((truth > 0.5).astype(float), labels)
    assert sure["ece"] == pytest.approx(0.25, abs=0.02)
    assert reliability(np.empty(0), np.empty(0)) == {"ece": 0.0, "curve": []}
