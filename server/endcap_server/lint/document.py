"""The tables of `docs/lint.md`, from the declarations of the codes and of the parameters.

`python -m endcap_server.lint.document docs/lint.md` updates the file; a test compares it.
"""

import re
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from endcap_server.declared.model import ADAPTER_PARAMETERS
from endcap_server.lint import CODES
from endcap_server.models import DECLARATIONS

_LINE = 120
_PART = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def codes() -> str:
    """Every code with what is wrong and why it matters, as a Markdown table."""
    ordered = sorted(CODES.values(), key=lambda code: code.name[1:])
    return _table(("code", "what", "why"), ((f"`{each.name}`", each.title, each.why) for each in ordered))


def parameters() -> str:
    """Every stage's and engine's parameters: default, range and meaning, as a Markdown table for each model."""
    parts = []
    for name, model in DECLARATIONS.items():
        rows = [
            (f"`{each.name}`", f"`{each.default}`" if str(each.default) else "", each.bounds, each.meaning)
            for each in model.parameters.declared()
        ]
        parts.append(f"### `{name}`\n\n" + _table(("parameter", "default", "range", "meaning"), rows))
    shared = ", ".join(f"`{key}`, {meaning}" for key, meaning in ADAPTER_PARAMETERS.items())
    return "\n".join([textwrap.fill(f"All of them also take {shared}.", _LINE) + "\n", *parts])


def document(text: str) -> str:
    """`docs/lint.md` with current tables."""
    tables = {"codes": codes(), "parameters": parameters()}
    return _PART.sub(lambda match: f"{match[1]}\n{tables[match[2]]}\n{match[3]}", text)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(document(path.read_text(encoding="utf-8")), encoding="utf-8")
