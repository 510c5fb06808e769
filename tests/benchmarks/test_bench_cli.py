"""Options of `make bench`, and what it says when it cannot run."""

import argparse
import json
import shlex
from pathlib import Path

import pytest

from benchmarks.cli import add_bench_command, main, plan_of, repeat_command
from benchmarks.plan import Plan, rates_of


@pytest.fixture
def build(tmp_path: Path) -> Path:
    manifest = {"catalogue": {"folder": "build/catalogues/shop"}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return tmp_path


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_bench_command(parser.add_subparsers())
    return parser.parse_args(["bench", *words])


def test_defaults(build: Path) -> None:
    plan = plan_of(parsed("--build", str(build)))
    assert plan == Plan(build, Path("build/catalogues/shop"), Path("benchmarks/out"))
    assert plan.parts == ("baseline", "load", "engines", "relevance")
    assert 6 * 60 < plan.seconds() < 12 * 60


def test_options(build: Path) -> None:
    options = parsed(
        "--build", str(build), "--catalogue", "x", "--quick", "--only", "profile", "--only", "load", "--requests", "3",
        "--rates", "4,0.5", "--concurrency", "2,1", "--seed", "9", "--budget-ms", "900",
    )  # fmt: skip
    plan = plan_of(options)
    assert plan.parts == ("load", "profile")
    assert (plan.pages, plan.searches, plan.seed, plan.budget_ms) == (3, 3, 9, 900)
    assert (plan.rates, plan.concurrency, plan.rounds) == ((0.5, 4.0), (1, 2), 2)
    assert plan.seconds() < plan_of(parsed("--build", str(build))).seconds() / 2
    words = shlex.split(repeat_command(options))
    assert words[:3] == ["python", "-m", "benchmarks"]
    assert plan_of(parsed(*words[3:])) == plan, "the command in the report repeats the run"


def test_rates_follow_the_capacity(build: Path) -> None:
    plan = plan_of(parsed("--build", str(build)))
    assert rates_of(plan, 2.0) == tuple(2 * share for share in plan.rate_shares)
    assert rates_of(plan.with_load((1.0, 3.0), (1,)), 2.0) == (1.0, 3.0)


@pytest.mark.parametrize("words", [["--rates", "0"], ["--rates", "a"], ["--requests", "-1"], ["--only", "everything"]])
def test_wrong_options(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(*words)
    assert words[0] in capsys.readouterr().err


def test_no_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--build", str(tmp_path / "none")]) == 1
    assert "no build in" in capsys.readouterr().err


def test_unreadable_base(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--build", str(build), "--base", str(build / "none.json")]) == 1
    assert "expected a report.json" in capsys.readouterr().err
