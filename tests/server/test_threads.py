"""How many threads a model gets."""

import os

import pytest
from endcap_server.serving.threads import call_threads, model_threads


@pytest.mark.parametrize(("cores", "threads"), [(1, 8), (2, 16), (6, 48), (8, 64), (96, 64)])
def test_some_threads_are_left_for_answers(cores: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert model_threads() == threads
    assert 0 < call_threads() <= threads - threads // 4
