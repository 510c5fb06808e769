"""Documentation keeps the house's line length."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "client").glob("*.md")])
MOST = 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_short(page: Path) -> None:
    code = False
    long = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        code ^= line.lstrip().startswith("```")
        if not code and not line.lstrip().startswith("|") and len(line) > MOST:
            long.append(number)
    assert long == [], f"{page.name}: lines longer than {MOST} characters"
