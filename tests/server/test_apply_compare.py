"""Figures of two generations' answers, and the limits they are held to."""

from pathlib import Path

import pytest
from endcap_client.cli import main
from endcap_server.apply.compare import Comparison, compare
from endcap_server.apply.limits import RolloutLimits
from endcap_server.apply.replay import ReplayAnswer, ReplaySample, choose
from endcap_server.serving.errors import ApplyError

NAMES = {"search": "search"}
STAGED = {"search": "search__g2"}
SAMPLES = [ReplaySample("search", {"QUERY": [f"q{number}"]}) for number in range(8)]


def answer(ids: str, shift: float = 0.0, ms: float = 10.0, degraded: bool = False) -> ReplayAnswer:
    status = {"degraded": ["rerank"] if degraded else []}
    scores = dict.fromkeys(ids, 0.5 + shift)
    return ReplayAnswer(ms / 1e3, best=frozenset(ids), scores=scores, status=status)


class Canned:
    """Answers the live generation's requests with one thing, the other's with another."""

    def __init__(self, live: ReplayAnswer, staged: list[ReplayAnswer]):
        self.live, self.staged, self.asked = live, staged, []

    def ask(self, sample: ReplaySample, model: str, tries: int = 1) -> ReplayAnswer:
        self.asked.append(model)
        number = int(sample.inputs["QUERY"][0][1:])
        return self.live if "__" not in model else self.staged[number % len(self.staged)]


def compared(live: ReplayAnswer, *staged: ReplayAnswer) -> Comparison:
    return compare(Canned(live, list(staged)), SAMPLES, NAMES, STAGED)  # type: ignore[arg-type]


def test_equal_pages() -> None:
    found = compared(answer("abcd"), answer("abcd"))
    assert (found.requests, found.compared, found.overlap, found.drift, found.errors) == (8, 8, 1.0, 0.0, 0)
    assert found.broken(RolloutLimits()) == []


def test_other_products() -> None:
    found = compared(answer("abcd"), answer("abxy", shift=0.2), answer("abcd"))
    assert found.overlap == pytest.approx(0.75)
    assert found.drift == pytest.approx(0.1)
    assert found.broken(RolloutLimits(min_overlap=0.7, max_drift=0.15)) == []
    assert [each.split()[0] for each in found.broken(RolloutLimits(min_overlap=0.8, max_drift=0.05))] == [
        "overlap@10",
        "score",
    ]


def test_one_ensemble_turned_upside_down_does_not_hide_behind_the_other() -> None:
    # The second canned answer is what odd queries get: the storefronts here, and none of the searches.
    samples = [*SAMPLES[::4], *(ReplaySample("storefront", {"QUERY": [f"q{number}"]}) for number in (1, 3, 5))]
    names, staged = ({name: name + end for name in ("search", "storefront")} for end in ("", "__g2"))
    canned = Canned(answer("abcd"), [answer("wxyd", shift=0.4), answer("abcd")])
    found = compare(canned, samples, names, staged)  # type: ignore[arg-type]
    assert (found.compared, found.overlap, found.drift) == (5, 0.25, pytest.approx(0.4))


def test_failures() -> None:
    found = compared(answer("abcd"), ReplayAnswer(0.01, "search__g2 failed: a mistake"), answer("abcd"))
    assert (found.errors, found.compared) == (4, 4)
    [broken] = found.broken(RolloutLimits())
    assert "4 of 8 requests failed" in broken
    assert "a mistake" in broken
    assert "q0" in broken
    assert found.broken(RolloutLimits(max_error_share=0.5)) == []


def test_what_live_does_not_answer_says_nothing() -> None:
    found = compared(ReplayAnswer(0.01, "overloaded: much to do", overloaded=True), answer("abcd"))
    assert (found.requests, found.errors) == (0, 0)
    assert compared(answer("abcd"), ReplayAnswer(0.01, "overloaded: much to do", overloaded=True)).requests == 0


def test_degraded_pages_are_counted_and_not_compared() -> None:
    found = compared(answer("abcd"), answer("wxyz", degraded=True), answer("abcd"))
    assert (found.compared, found.overlap, found.staged_fallback) == (4, 1.0, 0.5)
    [broken] = found.broken(RolloutLimits())
    assert broken.startswith("50% of the pages are degraded")


def test_latency_matters_only_beyond_the_slack() -> None:
    assert compared(answer("a", ms=4), answer("a", ms=20)).broken(RolloutLimits()) == []
    assert (
        "median latency 90 ms, 30 ms live"
        in compared(answer("a", ms=30), answer("a", ms=90)).broken(RolloutLimits())[0]
    )


def test_the_other_generation_is_warmed_up_first() -> None:
    canned = Canned(answer("a"), [answer("a")])
    compare(canned, SAMPLES[:2], NAMES, STAGED)  # type: ignore[arg-type]
    assert canned.asked == ["search__g2", "search__g2", "search__g2", "search", "search", "search__g2"]


def test_the_ensemble_that_callers_do_not_ask_is_tried_too() -> None:
    def of(ensemble: str, count: int) -> list[ReplaySample]:
        return [ReplaySample(ensemble, {"PRODUCTS": [number]}) for number in range(1, count + 1)]

    made = [each for pair in zip(of("search", 40), of("storefront", 40), strict=True) for each in pair]
    assert choose(of("search", 8), made, 8) == (of("search", 6) + of("storefront", 2), 6)
    assert choose(of("search", 2), made, 8) == (of("search", 2) + made[:6], 2)
    assert choose([], made, 8) == (made[:8], 0)


@pytest.mark.parametrize("command", ["apply", "rollback"])
@pytest.mark.parametrize("given", ["watch_s=0", "watch=5", "watch_s"])
def test_limits_of_the_command_line_are_checked_there(
    command: str, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--set", given])
    assert stopped.value.code == 2
    assert "argument --set: " in capsys.readouterr().err


def test_limits_from_a_file_and_settings(tmp_path: Path) -> None:
    (tmp_path / "apply.toml").write_text("min_overlap = 0.2\nwatch_s = 30\n", encoding="utf-8")
    limits = RolloutLimits.read([tmp_path / "none", tmp_path], ["watch_s=5"])
    assert (limits.min_overlap, limits.watch_s, limits.sample) == (0.2, 5.0, RolloutLimits().sample)


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("min_overlap = 2", (), "min_overlap: expected less than or equal to 1, got 2"),
        ("min_overlp = 0.2", (), "no setting is called 'min_overlp'; there are sample, min_overlap"),
        ("min_overlap = ", (), "expected TOML"),
        ("", ("watch_s",), "expected NAME=VALUE"),
        ("", ("watch_s=long",), "watch_s: expected a valid number"),
    ],
)
def test_bad_limits(tmp_path: Path, text: str, settings: tuple[str, ...], said: str) -> None:
    (tmp_path / "apply.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ApplyError, match=said):
        RolloutLimits.read([tmp_path], settings)
