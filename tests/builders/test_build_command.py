"""What `endcap build` refuses before it builds anything."""

from pathlib import Path

import pytest
from endcap_client.cli import main


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("store.max_product_tokens=0", "setting store.max_product_tokens: Input should be greater than"),
        ("store.max_product_tokens=many", "setting store.max_product_tokens: Input should be a valid integer"),
        ("store.colour=red", "setting store.colour: "),
        ("stor.max_product_tokens=8", "unknown step 'stor'"),
        ("store", "--set: expected STEP.SETTING=VALUE, got 'store'"),
    ],
)
def test_settings_that_cannot_be_are_faults_of_the_command_line(
    given: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "build"
    status = main(["build", "--catalogue", str(tmp_path), "--out", str(out), "--set", given])
    [line] = capsys.readouterr().err.splitlines()
    assert status == 2, "as of every number on the command line that is out of range"
    assert line.startswith(f"endcap build: {said}")
    assert not out.exists()


def test_other_faults_exit_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--catalogue", str(tmp_path / "none"), "--out", str(tmp_path / "build")]) == 1
    assert "endcap build: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["store", "--refresh"], 2, "expected no step, got store; to learn a step anew, say --retrain store"),
        (["--retrain", "ranker", "store"], 2, "--retrain: expected steps that learn (teacher, cross_encoder, "),
        (["--retrain", "bi_encoder"], 2, "run endcap build without --refresh"),
        (["--refresh"], 1, "expected them built, found no catalogue, bi_encoder, captions"),
    ],
)
def test_what_a_refresh_refuses(
    arguments: list[str], status: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "build"
    assert main(["build", *arguments, "--catalogue", str(tmp_path), "--out", str(out)]) == status
    assert said in capsys.readouterr().err
    assert not out.exists()
