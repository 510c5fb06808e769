import pytest
from endcap_client import Hedge, Retry
from endcap_client.policy import Backoff, Counters, LatencyWindow, Policy, Servers, TokenBucket


def test_the_budget_is_a_share_of_the_calls_that_went_well():
    bucket = TokenBucket(share=0.1, burst=3)
    assert [bucket.spend() for _ in range(4)] == [True, True, True, False]
    spent = 0
    for _ in range(1000):
        bucket.earn()
        spent += bucket.spend()
    assert spent == pytest.approx(100, abs=1)


def test_a_quiet_time_saves_no_more_than_the_burst():
    bucket = TokenBucket(share=0.5, burst=2)
    for _ in range(100):
        bucket.earn()
    assert bucket.tokens == 2


def test_overload_takes_the_whole_budget():
    bucket = TokenBucket(share=0.1, burst=10)
    bucket.drain()
    assert not bucket.spend()
    for _ in range(11):
        bucket.earn()
    assert bucket.spend()
    assert not bucket.spend()


@pytest.mark.parametrize(("attempts", "ceiling_s"), [(1, 0.025), (2, 0.05), (3, 0.1), (4, 0.12)])
def test_waits_double_up_to_their_ceiling(attempts, ceiling_s):
    retry = Retry(attempts=10, base_ms=25, max_ms=120)
    for draw in (0.0, 0.5, 1.0):
        backoff = Backoff(retry, TokenBucket(0.1, 10), draw=lambda draw=draw: draw)
        assert backoff.wait_s(attempts, left_s=10) == pytest.approx(draw * ceiling_s)


def test_waits_are_spread():
    backoff = Backoff(Retry(budget_burst=1000), TokenBucket(0.1, 1000))
    waits = [backoff.wait_s(1, 10) for _ in range(200)]
    assert all(0 <= wait <= 0.025 for wait in waits)
    assert max(waits) - min(waits) > 0.015


@pytest.mark.parametrize(
    ("retry", "attempts", "left_s"),
    [(None, 1, 10), (Retry(attempts=1), 1, 10), (Retry(attempts=3), 3, 10), (Retry(), 1, 0.001)],
    ids=["off", "one attempt", "all attempts made", "no time left"],
)
def test_no_further_try(retry, attempts, left_s):
    bucket = TokenBucket(0.1, 10)
    assert Backoff(retry, bucket, draw=lambda: 1.0).wait_s(attempts, left_s) is None
    assert bucket.tokens == 10, "a try that is not made costs nothing"


def test_no_further_try_without_budget():
    bucket = TokenBucket(0.1, 1)
    backoff = Backoff(Retry(), bucket)
    assert backoff.wait_s(1, 10) is not None
    assert backoff.wait_s(1, 10) is None


def test_the_quantile_of_recent_calls():
    window = LatencyWindow(0.95, min_calls=20)
    for number in range(19):
        window.add(number)
    assert window.value() is None
    window.add(19)
    assert window.value() == 19
    for _ in range(1000):
        window.add(0.5)
    assert window.value() == 0.5, "old calls are forgotten"


def test_addresses_take_turns():
    servers = Servers(["a:1", "b:1", "c:1"])
    assert [servers.pick(0.0) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_another_try_goes_elsewhere():
    servers = Servers(["a:1", "b:1", "c:1"])
    tried = []
    for _ in range(3):
        tried.append(servers.pick(0.0, tried))
    assert sorted(tried) == [0, 1, 2]
    assert servers.pick(0.0, tried) in (0, 1, 2)


def test_an_address_that_refused_is_passed_over_for_a_second():
    servers = Servers(["a:1", "b:1"])
    servers.refused(0, now=100.0)
    assert {servers.pick(100.9) for _ in range(4)} == {1}
    assert {servers.pick(101.1) for _ in range(4)} == {0, 1}
    servers.refused(0, now=102.0)
    servers.answered(0)
    assert {servers.pick(102.1) for _ in range(4)} == {0, 1}


def test_if_all_refused_they_are_asked_all_the_same():
    servers = Servers(["a:1", "b:1"])
    servers.refused(0, 10.0)
    servers.refused(1, 10.0)
    assert {servers.pick(10.1) for _ in range(4)} == {0, 1}


def test_hedging_waits_for_calls_to_learn_from_and_needs_two_addresses():
    policy = Policy(["a:1", "b:1"], Retry(), Hedge(min_calls=5, min_ms=2))
    for _ in range(5):
        assert policy.hedge_after_s("search") is None
        policy.went_well("search", 0.0001)
    assert policy.hedge_after_s("search") == 0.002
    assert policy.hedge_after_s("storefront") is None, "each model has its own times"
    alone = Policy(["a:1"], Retry(), Hedge(min_calls=1))
    alone.went_well("search", 0.1)
    assert alone.hedge_after_s("search") is None


def test_counts():
    counters = Counters()
    counters.add("calls")
    counters.add("calls")
    counters.add("errors", "refused")
    counts = counters.snapshot()
    counters.add("calls")
    assert (counts.calls, counts.retries, counts.errors, counts.fallbacks) == (2, 0, {"refused": 1}, {})
