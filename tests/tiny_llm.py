"""A tiny untrained student in the form that serving loads: under a grammar it writes valid nonsense."""

import random
from pathlib import Path

import torch
from endcap_builders.export.encoder import export_candidate_logits
from endcap_builders.llm.examples import Example, OrderExample
from endcap_builders.llm.export import export_student
from endcap_builders.llm.settings import StudentSettings
from endcap_builders.llm.student import make_student, save_student
from endcap_server.shop import prompts
from endcap_server.shop.prompts import ThemeDraft

THINGS = (
    "salsa",
    "taco shells",
    "green tea",
    "dog food",
    "puppy toys",
    "rice",
    "milk",
    "oat milk",
    "candles",
    "soap bar",
)
TINY = StudentSettings(
    vocabulary=500, hidden=32, layers=1, heads=2, train_tokens=2000, tokens_per_step=512, held_out=10
)


def theme_examples(count: int, seed: int = 1) -> list[Example]:
    rng = random.Random(seed)
    examples = []
    for _ in range(count):
        liked = rng.sample(THINGS, 3)
        page = [ThemeDraft(f"More {thing} for you", (thing, rng.choice(THINGS) + " mix")) for thing in liked[:2]]
        examples.append(
            Example(prompts.theme_prompt(prompts.shopper_text([liked]), len(page)), prompts.theme_completion(page))
        )
    return examples


def keyword_examples(count: int, seed: int = 1) -> list[OrderExample]:
    rng = random.Random(seed)
    examples = []
    for _ in range(count):
        candidates = rng.sample(THINGS, 6)
        prompt = prompts.keyword_prompt(f"More {candidates[0]}", candidates[:2], candidates)
        examples.append(OrderExample(prompt, (1, 0)))
    return examples


def write_llm(folder: Path) -> None:
    torch.manual_seed(3)
    model, tokenizer = make_student(TINY, [*theme_examples(50), *keyword_examples(50)])
    save_student(model, tokenizer, folder / "hf")
    export_student(folder / "hf", folder)


def write_keyword_llm(folder: Path) -> None:
    torch.manual_seed(3)
    model, tokenizer = make_student(TINY, keyword_examples(50), prompts.CANDIDATE_TOKENS)
    save_student(model, tokenizer, folder / "hf")
    export_candidate_logits(model, tokenizer, folder / "model.xml")
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
