"""The tables of docs/lint.md are what the code declares."""

from pathlib import Path

from endcap_server.lint import CODES
from endcap_server.lint.document import codes, document, parameters
from endcap_server.models import DECLARATIONS

PAGE = Path(__file__).resolve().parents[2] / "docs/lint.md"


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert document(text) == text, "run python -m endcap_server.lint.document docs/lint.md"


def test_every_code_and_parameter_is_in_its_table() -> None:
    assert all(f"| `{name}` | {code.title} | {code.why} |" in codes() for name, code in CODES.items())
    for model in DECLARATIONS.values():
        for each in model.parameters.declared():
            assert f"| `{each.name}` |" in parameters()
            assert each.meaning in parameters()
