import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from endcap_server.engines.llm import Llm
from endcap_server.engines.llm_engine import AbandonedError, Completion, LlmError, LlmRequest
from endcap_server.shop import prompts
from endcap_server.shop.grammar import theme_grammar

pytest.importorskip("optimum.intel")
from tiny_llm import THINGS, write_llm

PROMPT = prompts.theme_prompt("likes:salsa", 3)


@pytest.fixture(scope="session")
def folder(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    return made_once("llm", write_llm)


@pytest.fixture(scope="module", params=["f32", "auto"])
def llm(folder: Path, request: pytest.FixtureRequest) -> Iterator[Llm]:
    engine = Llm(folder, precision=request.param, cache_mb=16)
    yield engine
    engine.close()


def ask(
    llm: Llm,
    prompt: str = PROMPT,
    grammar: str = "",
    max_tokens: int = 1500,
    ms: float = 30_000,
    abandoned=lambda: False,
):
    results: list[Completion | Exception] = []
    done = threading.Event()

    def on_done(result: Completion | Exception) -> None:
        results.append(result)
        done.set()

    llm.submit(LlmRequest(prompt, grammar, max_tokens, time.monotonic_ns() + int(ms * 1e6), on_done, abandoned))
    assert done.wait(40)
    return results[0]


def test_a_grammar_makes_any_student_write_valid_themes(llm):
    answer = ask(llm, grammar=theme_grammar(3))
    assert answer.finish == "stop"
    assert len(prompts.parse_themes(answer.text)) == 3


def test_every_request_has_its_own_grammar(llm):
    counts = list(range(1, 6))
    texts = [prompts.theme_prompt("likes:salsa", count) for count in counts]
    answers = llm.generate(texts, [theme_grammar(count) for count in counts], 1500)
    assert [len(prompts.parse_themes(answer.text)) for answer in answers] == counts


def test_answers_do_not_depend_on_company(llm):
    texts = [prompts.theme_prompt(f"likes:{thing}", 2) for thing in THINGS]
    grammar = theme_grammar(2)
    together = llm.generate(texts, [grammar] * len(texts), 1500)
    alone = [llm.generate([text], [grammar], 1500)[0] for text in texts[:3]]
    assert [answer.text for answer in together[:3]] == [answer.text for answer in alone]


def test_max_tokens_cut_an_answer(llm):
    answer = ask(llm, grammar=theme_grammar(5), max_tokens=4)
    assert answer.finish == "length"
    assert answer.text.startswith("[")
    assert prompts.parse_themes(answer.text) == []


def test_a_deadline_cuts_an_answer(llm):
    answer = ask(llm, max_tokens=1900, ms=150)
    assert isinstance(answer, Completion)
    assert answer.finish == "cancelled"
    assert answer.text


def test_a_deadline_that_has_passed(llm):
    assert isinstance(ask(llm, ms=-1), AbandonedError)


def test_an_abandoned_request_stops(llm):
    gone = threading.Event()
    threading.Timer(0.1, gone.set).start()
    assert isinstance(ask(llm, max_tokens=1900, abandoned=gone.is_set), AbandonedError)


@pytest.mark.parametrize("grammar", ['root ::= "a', "root ::= nothing", 'other ::= "a"'])
def test_a_wrong_grammar_costs_nobody_else_an_answer(llm, grammar):
    results: list[Completion | Exception] = []
    done = threading.Semaphore(0)

    def on_done(result: Completion | Exception) -> None:
        results.append(result)
        done.release()

    deadline_ns = time.monotonic_ns() + int(60e9)
    for text in (theme_grammar(1), grammar, theme_grammar(2)):
        llm.submit(LlmRequest(PROMPT, text, 1500, deadline_ns, on_done))
    for _ in range(3):
        assert done.acquire(timeout=60)
    assert sum(isinstance(result, LlmError) for result in results) == 1
    assert sum(isinstance(result, Completion) and result.finish == "stop" for result in results) == 2
    assert ask(llm, grammar=theme_grammar(1)).finish == "stop"


@pytest.mark.parametrize(("prompt", "max_tokens"), [("", 10), ("salsa " * 3000, 10), ("salsa", 0), ("salsa", 5000)])
def test_requests_that_cannot_fit(llm, prompt, max_tokens):
    result = ask(llm, prompt, max_tokens=max_tokens)
    assert isinstance(result, LlmError)
    assert "expected 1..2048 tokens together" in str(result)


def test_a_full_queue_refuses(folder):
    engine = Llm(folder, cache_mb=16, max_sequences=1, max_waiting=1)
    results: list[Completion | Exception] = []
    deadline_ns = time.monotonic_ns() + int(60e9)
    for _ in range(200):
        engine.submit(LlmRequest(PROMPT, "", 1900, deadline_ns, results.append))
    engine.close()
    assert len(results) == 200
    assert any("busy" in str(result) for result in results)
    assert any("closed" in str(result) for result in results)


def test_a_closed_engine_answers(folder):
    engine = Llm(folder, cache_mb=16)
    engine.close()
    engine.close()
    assert "closed" in str(ask(engine))


def test_more_prompts_than_may_wait(folder):
    engine = Llm(folder, cache_mb=16, max_waiting=4)
    try:
        answers = engine.generate([PROMPT] * 40, ['root ::= "salsa"'] * 40, 200)
    finally:
        engine.close()
    assert {answer.finish for answer in answers} == {"stop"}


@pytest.mark.parametrize("missing", ["openvino_model.xml", "tokenizer.json", "config.json"])
def test_an_incomplete_folder(folder, tmp_path, missing):
    copy = tmp_path / "llm"
    shutil.copytree(folder, copy)
    (copy / missing).unlink()
    with pytest.raises(LlmError, match=missing):
        Llm(copy)
