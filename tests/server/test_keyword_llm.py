import itertools
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from endcap_server.declared.errors import InvalidRequest
from endcap_server.engines.encoder_runtime import EngineLoadError, RuntimeOptions
from endcap_server.engines.keyword_llm import KeywordLlm
from endcap_server.shop import prompts
from tiny_llm import THINGS, write_keyword_llm


@pytest.fixture(scope="session")
def folder(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    return made_once("keyword_llm", write_keyword_llm)


@pytest.fixture(scope="module", params=["f32", "auto"])
def llm(folder: Path, request: pytest.FixtureRequest) -> KeywordLlm:
    return KeywordLlm(folder, RuntimeOptions(precision=request.param, streams=2, threads=2))


def some_prompts(count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    rng = random.Random(seed)
    candidates = [f"{thing} {other}" for thing, other in itertools.product(THINGS, THINGS)]
    counts = [rng.randint(1, 100) for _ in range(count)]
    texts = [prompts.keyword_prompt(rng.choice(THINGS), THINGS[:2], rng.sample(candidates, each)) for each in counts]
    return texts, np.array(counts, np.int32)


def test_an_order_has_each_candidate_once(llm: KeywordLlm) -> None:
    texts, counts = some_prompts(40)
    (result,) = llm.run([llm.request(texts, counts)])
    assert result.order.shape == result.logits.shape == (40, counts.max())
    assert result.order.dtype == np.int32
    assert result.logits.dtype == np.float32
    for order, logits, count in zip(result.order, result.logits, counts, strict=True):
        assert sorted(order[:count].tolist()) == list(range(count))
        assert (order[count:] == -1).all()
        assert (logits[count:] == 0).all()
        assert (np.diff(logits[order[:count]]) <= 0).all()


def test_logits_are_those_of_hugging_face(folder: Path) -> None:
    import torch
    from endcap_builders.llm.student import load_student

    model, tokenizer = load_student(folder / "hf")
    llm = KeywordLlm(folder, RuntimeOptions(precision="f32"))
    texts, counts = some_prompts(12)
    (result,) = llm.run([llm.request(texts, counts)])
    tokens = tokenizer.convert_tokens_to_ids(list(prompts.CANDIDATE_TOKENS))
    for text, logits, count in zip(texts, result.logits, counts, strict=True):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1, tokens[:count]]
        np.testing.assert_allclose(logits[:count], expected, atol=2e-2)


def test_answers_do_not_depend_on_company(folder: Path) -> None:
    llm = KeywordLlm(folder, RuntimeOptions(precision="f32"))
    texts, counts = some_prompts(30)
    requests = [llm.request(texts[start : start + 6], counts[start : start + 6]) for start in range(0, 30, 6)]
    together = llm.run(requests)
    for request, result in zip(requests, together, strict=True):
        (alone,) = llm.run([request])
        np.testing.assert_allclose(result.logits, alone.logits, atol=1e-4)


def test_a_late_request_costs_nobody_else_an_answer(llm: KeywordLlm) -> None:
    texts, counts = some_prompts(4)
    late, other = llm.run([llm.request(texts, counts, deadline_ns=1), llm.request(texts, counts)])
    assert isinstance(late, TimeoutError)
    assert other.order.shape == (4, counts.max())


@pytest.mark.parametrize(
    ("texts", "counts", "message"),
    [
        ([], [], "COUNT: expected one for each of 0 prompts"),
        (["a"], [1, 2], "COUNT: expected one for each of 1 prompts"),
        (["a"], [0], "COUNT: expected 1..100 candidates, got 0"),
        (["a", "b"], [3, 101], "COUNT: expected 1..100 candidates, got 101"),
        ([""], [1], "PROMPT: expected 1..2048 tokens, got 0"),
        (["salsa " * 3000], [1], "PROMPT: expected 1..2048 tokens"),
    ],
)
def test_wrong_requests(llm: KeywordLlm, texts: list[str], counts: list[int], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        llm.request(texts, np.array(counts, np.int32))


def test_a_student_of_other_tokens_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "llm"
    shutil.copytree(folder, copy)
    text = (copy / "tokenizer.json").read_text(encoding="utf-8")
    (copy / "tokenizer.json").write_text(text.replace("<|7|>", "<|seven|>"), encoding="utf-8")
    with pytest.raises(EngineLoadError, match="a token for each of 100 candidates"):
        KeywordLlm(copy)
