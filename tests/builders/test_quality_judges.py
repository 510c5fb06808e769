"""The LLM at an endpoint as judge, over a real HTTP server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_endpoint import ChatEndpoint
from endcap_builders.chat import OpenAISettings, StructuredChat
from endcap_builders.quality.judges import EndpointJudge, Grade, ThemeProduct
from endcap_builders.step import BuildError

PRODUCTS = {"p0": "Tomato soup · Ostara", "p1": "Garden rake"}
CASES = [ThemeProduct("Soup for tonight", product) for product in ("p0", "p1")]


def graded(body: dict[str, Any]) -> str:
    said = body["messages"][1]["content"]
    return json.dumps({"reason": said.splitlines()[1], "grade": 2 if "soup" in said.splitlines()[1] else 0})


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatEndpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    running = ChatEndpoint(graded)
    yield running
    running.close()


def judge(endpoint: ChatEndpoint, path: Path, **settings: Any) -> EndpointJudge:
    options = OpenAISettings(
        base_url=endpoint.url, model="m", input_price=1.0, output_price=10.0, concurrency=1, **settings
    )
    return EndpointJudge(StructuredChat(options, path, lambda text: None, who="judge", instead="ask people"), PRODUCTS)


def test_grades_with_reasons_and_price(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    asked = judge(endpoint, tmp_path / "answers.jsonl")
    assert asked.grades(CASES) == [Grade(1.0, "Product: Tomato soup · Ostara"), Grade(0.0, "Product: Garden rake")]
    assert asked.cost == pytest.approx(2 * (1000 * 1.0 + 100 * 10.0) / 1e6)
    _, _, body = endpoint.requests[0]
    schema = body["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["properties"]["grade"]["enum"] == [0, 1, 2]
    assert list(schema["schema"]["properties"]) == ["reason", "grade"], "the reason comes before the grade"
    again = judge(endpoint, tmp_path / "answers.jsonl")
    assert [grade.value for grade in again.grades(CASES)] == [1.0, 0.0]
    assert (len(endpoint.requests), again.cost) == (2, 0.0), "nothing is paid for twice"


def test_what_stays_malformed_has_no_grade(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    endpoint.script[:] = ["<html>", '{"reason": "x", "grade": 7}']
    found = judge(endpoint, tmp_path / "answers.jsonl", malformed_retries=1).grades(CASES)
    assert np.isnan(found[0].value)
    assert found[1].value == 0.0
    endpoint.script[:] = [429, "no JSON"]
    assert judge(endpoint, tmp_path / "others.jsonl", malformed_retries=1).grades(CASES[:1])[0].value == 1.0


def test_an_endpoint_that_refuses_ends_the_run_and_keeps_answers(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    endpoint.script[:] = [graded({"messages": [{}, {"content": "Title\nsoup"}]}), 401]
    with pytest.raises(BuildError, match=r"judge m at http.*: AuthenticationError.*1 answers are kept"):
        judge(endpoint, tmp_path / "answers.jsonl").grades(CASES)
    assert len(judge(endpoint, tmp_path / "answers.jsonl").grades(CASES)) == 2
    assert len(endpoint.requests) == 3


def test_no_key(endpoint: ChatEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(BuildError, match=r"judge openai: expected a key in .* OPENAI_API_KEY, .* or ask people"):
        judge(endpoint, tmp_path / "answers.jsonl")
