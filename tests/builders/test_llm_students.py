"""Students: tokenizer, training from scratch and of a checkpoint, export, and the two steps that put them together."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from endcap_builders.llm import training
from endcap_builders.llm.build import Lesson, build_student
from endcap_builders.llm.evaluation import evaluate_keywords, evaluate_themes
from endcap_builders.llm.examples import Example, OrderExample, read_examples, split_held_out, write_examples
from endcap_builders.llm.export import export_student
from endcap_builders.llm.ordering import Ordering, listwise_loss
from endcap_builders.llm.packing import pack
from endcap_builders.llm.settings import StudentSettings
from endcap_builders.llm.student import make_student, save_student
from endcap_builders.llm.tokenizer import load_tokenizer, train_tokenizer
from endcap_builders.llm.training import endless_rows, schedule, train
from endcap_builders.llm.writing import Writing
from endcap_builders.step import BuildContext, BuildError
from endcap_builders.steps.keyword_llm import export_keyword_llm
from endcap_server.engines.llm import Llm
from endcap_server.shop import prompts
from rich.console import Console
from tiny_llm import THINGS, TINY, keyword_examples, theme_examples

CPU = torch.device("cpu")
THEMES = Lesson(
    Example,
    lambda _: Writing(0.1),
    lambda ctx, trained: export_student(trained, ctx.output),
    lambda folder, held_out: evaluate_themes(folder, held_out, set(THINGS)),
)
KEYWORDS = Lesson(OrderExample, Ordering, export_keyword_llm, evaluate_keywords, prompts.CANDIDATE_TOKENS)


def context(folder: Path) -> BuildContext:
    for name in ("output", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return BuildContext(
        build=folder,
        catalogue_folder=folder,
        output=folder / "output",
        work=folder / "work",
        seed=1,
        profile="cpu",
        console=Console(quiet=True),
        _shared={},
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny student made from scratch, as any local checkpoint."""
    torch.manual_seed(0)
    model, tokenizer = make_student(TINY, theme_examples(60))
    folder = tmp_path_factory.mktemp("checkpoint")
    save_student(model, tokenizer, folder)
    return folder


def test_examples_survive_writing_and_reading(tmp_path):
    examples = [Example("a\n", 'b "c"'), Example("é", "日本")]
    assert write_examples(tmp_path / "x.jsonl", examples) == 2
    assert read_examples(tmp_path / "x.jsonl", Example) == examples


@pytest.mark.parametrize("line", ["no json", '{"prompt": "a"}', "[1]"])
def test_damaged_examples_are_named(tmp_path, line):
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.jsonl, line 2: expected"):
        read_examples(tmp_path / "x.jsonl", Example)


def test_held_out_prompts_are_not_trained_on():
    examples = [Example(f"p{number % 30}", f"c{number}") for number in range(100)]
    train_part, test = split_held_out(examples, 10)
    assert len(test) == 10
    assert not {example.prompt for example in test} & {example.prompt for example in train_part}
    assert split_held_out(examples[:3], 10) == (examples[:3], examples[:1])


def test_tokenizer_writes_the_fixed_pieces_as_one_token_and_items_alike():
    examples = theme_examples(200)
    tokenizer = train_tokenizer([text for e in examples for text in (e.prompt, e.completion)], 600)
    tokens = tokenizer.tokenize(examples[0].completion)
    assert {'[{"title":"', '","concepts":["', '"]},{"title":"', '"]}]'} <= set(tokens)
    for text in ("taco shells", "dog food"):
        alone = tokenizer(text)["input_ids"]
        for around in (f"likes:{text},x", f'["{text}","x"]', f"x|{text}|x"):
            ids = tokenizer(around)["input_ids"]
            assert any(ids[start : start + len(alone)] == alone for start in range(len(ids)))
    for text in (examples[0].completion, "Crème brûlée 日本 🙂\t½"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tokenizer_needs_room_for_bytes():
    with pytest.raises(ValueError, match="at least 300"):
        train_tokenizer(["a"], 200)


def test_packed_examples_do_not_see_each_other(checkpoint):
    model, tokenizer = make_student(StudentSettings(checkpoint=str(checkpoint), lora=False), [])
    writing = Writing(0.3)
    encoded = writing.encode(tokenizer, theme_examples(3), 500)
    width = sum(len(ids) for ids, _ in encoded)
    together = writing.loss(model, [encoded], width, CPU).item()
    losses = [writing.loss(model, [[item]], width, CPU).item() for item in encoded]
    weights = [float(writing.weights([[item]], width).sum()) for item in encoded]
    assert together == pytest.approx(np.average(losses, weights=weights), rel=1e-4)


def test_pack_weighs_answers_and_prompts():
    rows = [[(np.array([5, 6, 7, 8]), 2), (np.array([9, 10]), 1)]]
    packed = pack(rows, 8, 0)
    assert packed.ids.tolist() == [[5, 6, 7, 8, 9, 10, 0, 0]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 0, 1, 0, 0]]
    assert packed.ends.tolist() == [3, 5]
    assert Writing(0.1).weights(rows, 8)[0].tolist() == pytest.approx([0, 0.1, 1, 1, 0, 1, 0, 0])


def test_the_listwise_loss_is_the_likelihood_of_an_order():
    """By hand: the second choice is among what the first has left; what is beyond the count is no candidate."""
    logits = torch.tensor([[1.0, 2.0, 0.5, 9.0], [0.0, 0.0, 0.0, 0.0]])
    of_first = np.exp(0.5) / np.exp([1.0, 2.0, 0.5]).sum()
    of_second = np.exp(2.0) / np.exp([1.0, 2.0]).sum()
    first_row = -(np.log(of_first) + np.log(of_second)) / 2
    loss = listwise_loss(logits, [(3, (2, 1)), (4, (3,))])
    assert loss.item() == pytest.approx((first_row + np.log(4)) / 2, rel=1e-5)


def test_a_checkpoint_gets_the_candidates_tokens(checkpoint):
    """Such as any checkpoint from a hub, which knows no candidates; only their rows of the embedding are trained."""
    settings = StudentSettings(checkpoint=str(checkpoint), learning_rate=1e-2, train_tokens=3000, tokens_per_step=512)
    model, tokenizer = make_student(settings, [], prompts.CANDIDATE_TOKENS)
    assert tokenizer.tokenize("salsa<|100|>")[-1] == "<|100|>"
    before = model.get_input_embeddings()(torch.arange(len(tokenizer))).detach().clone()
    figures = train(model, tokenizer, Ordering(tokenizer), keyword_examples(60), settings, 1)
    changed = (model.get_input_embeddings()(torch.arange(len(tokenizer))) != before).any(dim=1)
    numbers = tokenizer.convert_tokens_to_ids(list(prompts.CANDIDATE_TOKENS))
    assert changed[numbers[:6]].all()
    assert not changed[: min(numbers)].any()
    assert figures.loss < 1.9


def test_rows_hold_every_example_once_an_epoch():
    encoded = [(np.full(length, number), 1) for number, length in enumerate([3, 9, 4, 6, 2, 8, 10, 5])]
    rows = endless_rows(encoded, 10, random.Random(0))
    seen: list[int] = []
    while len(seen) < len(encoded):
        row = next(rows)
        assert sum(len(ids) for ids, _ in row) <= 10
        seen += [int(ids[0]) for ids, _ in row]
    assert sorted(seen) == list(range(len(encoded)))


def test_schedule_warms_up_and_falls():
    rates = [schedule(done) for done in np.linspace(0, 1, 101)]
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates[0] < 0.1
    assert rates[-1] == pytest.approx(0.02)


def test_training_learns_and_reports(checkpoint):
    torch.manual_seed(0)
    examples = theme_examples(80)
    model, tokenizer = make_student(TINY, examples)
    writing = Writing(0.0)
    rows = [[item] for item in writing.encode(tokenizer, examples[:8], 500)]
    before = writing.loss(model, rows, 128, CPU).item()
    shares: list[float] = []
    figures = train(
        model,
        tokenizer,
        writing,
        examples,
        TINY.model_copy(update={"train_tokens": 20_000}),
        1,
        lambda share, loss: shares.append(share),
    )
    assert 20_000 <= figures.tokens <= 21_000
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert writing.loss(model, rows, 128, CPU).item() < 0.6 * before


def test_activations_computed_again_train_the_same_student():
    """What a GPU does by default; the device is a parameter of the same code."""
    students = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model, tokenizer = make_student(TINY, theme_examples(40))
        settings = TINY.model_copy(update={"train_tokens": 3000})
        train(
            model, tokenizer, Writing(0.1), theme_examples(40), settings, 1, device="cpu", checkpointing=checkpointing
        )
        assert not model.is_gradient_checkpointing
        students.append(model)
    for one, two in zip(*(model.parameters() for model in students), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_training_keeps_to_its_time():
    model, tokenizer = make_student(TINY, theme_examples(40))
    settings = TINY.model_copy(update={"train_seconds": 0.2, "train_tokens": 10**9})
    figures = train(model, tokenizer, Writing(0.1), theme_examples(40), settings, 1)
    assert figures.steps < 10_000


def test_training_without_a_fitting_example():
    model, tokenizer = make_student(TINY, theme_examples(40))
    with pytest.raises(ValueError, match="got none of 1"):
        train(model, tokenizer, Writing(0.1), [Example("x " * 900, "y")], TINY, 1)


def test_matrices_from_scratch_get_muon_and_checkpoints_adamw(checkpoint):
    scratch, _ = make_student(TINY, theme_examples(40))
    kinds = [type(optimizer).__name__ for optimizer in training.make_optimizers(scratch, TINY, torch.float32)]
    assert kinds == ["AdamW", "Muon"]
    settings = StudentSettings(checkpoint=str(checkpoint), lora=False)
    given, _ = make_student(settings, [])
    optimizers = training.make_optimizers(given, settings, torch.float32)
    assert [type(optimizer).__name__ for optimizer in optimizers] == ["AdamW"]
    trained = sum(len(group["params"]) for optimizer in optimizers for group in optimizer.param_groups)
    assert trained == len(list(given.parameters()))


def test_lora_trains_little_and_is_merged(checkpoint, tmp_path):
    settings = StudentSettings(checkpoint=str(checkpoint), learning_rate=1e-2, train_tokens=1500, tokens_per_step=512)
    model, tokenizer = make_student(settings, [])
    whole = sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) < whole / 2
    train(model, tokenizer, Writing(0.1), theme_examples(40), settings, 1)
    save_student(model, tokenizer, tmp_path)
    plain, _ = make_student(StudentSettings(checkpoint=str(tmp_path), train_tokens=0), [])
    old, _ = make_student(StudentSettings(checkpoint=str(checkpoint), train_tokens=0), [])
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in old.named_parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(plain.parameters(), old.parameters(), strict=True))


def test_a_checkpoint_that_is_none(tmp_path):
    with pytest.raises(BuildError, match=r"expected a folder with config\.json"):
        make_student(StudentSettings(checkpoint=str(tmp_path)), [])
    write_examples(tmp_path / "x.jsonl", theme_examples(20))
    settings = StudentSettings(checkpoint=str(tmp_path / "none"))
    with pytest.raises(BuildError, match="expected a name of `endcap models list`, a folder, or a name on the Hugg"):
        build_student(context(tmp_path), settings, tmp_path / "x.jsonl", THEMES)


@pytest.mark.parametrize(
    ("examples", "lesson"),
    [(theme_examples(100), THEMES), (keyword_examples(100), KEYWORDS)],
    ids=["themes", "keywords"],
)
def test_a_student_is_built_measured_and_served(tmp_path, examples: list[Any], lesson: Lesson[Any]):
    write_examples(tmp_path / "examples.jsonl", examples)
    ctx = context(tmp_path)
    settings = TINY.model_copy(update={"train_tokens": 30_000})
    figures = build_student(ctx, settings, tmp_path / "examples.jsonl", lesson)
    assert figures["tokens"] >= 30_000
    measured = figures["held_out"]
    assert measured["examples"] == 10
    assert json.dumps(figures)
    assert load_tokenizer(ctx.output / "hf").eos_token_id is not None
    if lesson is KEYWORDS:
        assert measured["ndcg"] > measured["nearest_ndcg"], "the teacher prefers the second candidate to the first"
        return
    assert measured["valid"] == 1
    engine = Llm(ctx.output, cache_mb=16)
    try:
        assert engine.generate(["likes:salsa\n1 themes\n"], ['root ::= "salsa" | "milk"'], 20)[0].text in {
            "salsa",
            "milk",
        }
    finally:
        engine.close()


def test_a_build_that_was_interrupted_after_training_goes_on_with_the_export(tmp_path, checkpoint):
    write_examples(tmp_path / "examples.jsonl", theme_examples(40))
    ctx = context(tmp_path)
    shutil.copytree(checkpoint, ctx.work / "hf")
    figures = build_student(ctx, TINY, tmp_path / "examples.jsonl", THEMES)
    assert "steps" not in figures
    assert figures["held_out"]["examples"] == 8


def test_a_loss_that_is_not_a_number_ends_the_training(checkpoint):
    model, tokenizer = make_student(StudentSettings(checkpoint=str(checkpoint), lora=False), [])
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("nan")
    with pytest.raises(ValueError, match="the loss became nan at step 0: expected a finite one; lower learning_rate"):
        train(model, tokenizer, Writing(0.1), theme_examples(20), StudentSettings(checkpoint=str(checkpoint)), 1)
