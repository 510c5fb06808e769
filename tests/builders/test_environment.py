"""Variables that are set for a while."""

import os
from contextlib import suppress

import pytest
from endcap_builders.environment import environment


def test_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDCAP_TEST_ONE", "before")
    monkeypatch.delenv("ENDCAP_TEST_TWO", raising=False)
    with suppress(KeyError), environment({"ENDCAP_TEST_ONE": "1", "ENDCAP_TEST_TWO": "2"}):
        assert (os.environ["ENDCAP_TEST_ONE"], os.environ["ENDCAP_TEST_TWO"]) == ("1", "2")
        raise KeyError
    assert os.environ["ENDCAP_TEST_ONE"] == "before"
    assert "ENDCAP_TEST_TWO" not in os.environ
