"""What STATUS says of a generation on trial."""

import json
from pathlib import Path

from endcap_server.stages.trial import FILE, Trial, is_shown

DOCUMENT = {"generation": "2", "mode": "split", "share": 0.05, "models": {"search": "search__g2"}}


def test_comes_changes_and_goes(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    assert trial.document() is None
    (tmp_path / FILE).write_text(json.dumps(DOCUMENT), encoding="utf-8")
    assert trial.document() == trial.document() == DOCUMENT
    new = tmp_path / "new"
    new.write_text(json.dumps(DOCUMENT | {"share": 0.1}), encoding="utf-8")
    new.replace(tmp_path / FILE)
    assert trial.document() == DOCUMENT | {"share": 0.1}
    (tmp_path / FILE).unlink()
    assert trial.document() is None


def test_half_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(DOCUMENT)[:-4], encoding="utf-8")
    assert Trial(tmp_path).document() is None


def test_answers_of_a_shadow_are_shown_to_nobody() -> None:
    assert is_shown(None, 2)
    assert is_shown(DOCUMENT, 2)
    assert is_shown(DOCUMENT | {"mode": "shadow"}, 1)
    assert not is_shown(DOCUMENT | {"mode": "shadow"}, 2)
