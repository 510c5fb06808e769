"""`endcap evaluate quality` on the build of the small shop, whose checks are those that serve."""

import json
from pathlib import Path

from endcap_builders.evaluation.quality import QualityEvaluation, quality_settings, run_quality
from endcap_builders.evaluation.request import EvaluationRequest, catalogue_of
from endcap_builders.quality.title_cases import FAULTS, LANGUAGE
from endcap_builders.quality.titles import BESIDE, COINED, MERCHANDISER, STUDENT
from rich.console import Console


def test_titles(build: Path) -> None:
    request = QualityEvaluation(
        EvaluationRequest(build, catalogue_of(build)),
        quality_settings({"quality": {"titles": 30}}),
        ("titles",),
        "test-quality",
    )
    report = run_quality(request, Console(quiet=True))
    refused, found = report["titles"]["refused"], report["titles"]["found"]
    assert set(refused) == {MERCHANDISER, COINED, BESIDE, STUDENT}
    assert list(found) == list(FAULTS)
    assert refused[MERCHANDISER]["value"] < 0.2, "titles of the kind that LLM 1 learned from"
    # Half of what an LLM coins would be too much; before the words of the language were known, it was 94 %.
    assert refused[COINED]["value"] < 0.6
    assert found[LANGUAGE]["value"] > 0.8
    for row in (*refused.values(), *found.values()):
        assert row["low"] <= row["value"] <= row["high"]
        assert sum(row["checks"].values()) == round(row["value"] * row["cases"])
    folder = build / "evaluation/test-quality"
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == report
    assert "| misspelt | " in (folder / "report.md").read_text(encoding="utf-8")
