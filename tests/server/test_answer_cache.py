"""What a stage keeps of its answers, and for how long."""

import pytest
from endcap_server.stages.answer_cache import LONGEST_DOCUMENT, AnswerCache, CachedAnswer


def answer(name: str) -> CachedAnswer:
    return CachedAnswer(name, {"aiqa": {}})


def test_the_answer_that_was_used_longest_ago_makes_place() -> None:
    cache = AnswerCache(2, 0)
    for name in ("a", "b"):
        cache.put(name.encode(), answer(name))
    assert cache.get(b"a") == answer("a")
    cache.put(b"c", answer("c"))
    assert [cache.get(name) for name in (b"a", b"b", b"c")] == [answer("a"), None, answer("c")]
    assert len(cache) == 2


def test_an_answer_ends_after_its_time() -> None:
    now = [100.0]
    cache = AnswerCache(8, 60, lambda: now[0])
    cache.put(b"a", answer("a"))
    now[0] += 59
    assert cache.get(b"a")
    now[0] += 1
    assert cache.get(b"a") is None
    assert len(cache) == 0
    cache.put(b"a", answer("new"))
    assert cache.get(b"a") == answer("new")


@pytest.mark.parametrize(("entries", "document"), [(0, "short"), (8, "x" * (LONGEST_DOCUMENT + 1))])
def test_what_is_not_kept(entries: int, document: str) -> None:
    cache = AnswerCache(entries, 0)
    cache.put(b"a", answer(document))
    assert cache.get(b"a") is None
    assert len(cache) == 0
