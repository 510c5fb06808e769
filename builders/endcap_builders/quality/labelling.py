"""`endcap evaluate quality --label FILE`: a person labels products of placements in the terminal, one key each."""

import json
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from rich.console import Console

from endcap_builders.evaluation.queries import EvaluationError

FITS, MISFIT, UNSURE = 1.0, 0.0, None
_KEYS: dict[str, float | None] = {"y": FITS, "n": MISFIT, "s": UNSURE}
_UNDO, _QUIT = "u", "q"
_HELP = "[b]y[/b] fits  [b]n[/b] does not fit  [b]s[/b] skip  [b]u[/b] undo  [b]q[/b] quit"


@dataclass(frozen=True)
class Question:
    """One product of a placement.

    Attributes:
        theme: title of the placement.
        product_id: of the product.
        product: its title, with brand and category.
    """

    theme: str
    product_id: str
    product: str


@dataclass(frozen=True)
class Label:
    """A person's answer; `fits` is 1 or 0, or None if the person skipped it."""

    theme: str
    product_id: str
    fits: float | None


def read_labels(path: Path) -> dict[tuple[str, str], float]:
    """Labels by theme and product id; the last one of a pair counts, skipped ones are left out.

    Raises:
        EvaluationError: there is no such file, or a line is no label; names file and line.
    """
    return {(label.theme, label.product_id): label.fits for label in _read(path) if label.fits is not None}


def ask_labels(
    questions: Sequence[Question],
    path: Path,
    count: int,
    seed: int = 0,
    console: Console | None = None,
    keys: Iterable[str] | None = None,
) -> int:
    """Ask a person about random questions until there are `count` labels; every answer is in the file at once.

    Args:
        questions: of which some are drawn, in an order that depends on the seed only.
        path: of the labels; the ones that are there count.
        count: labels wanted.
        seed: of the order.
        console: where to ask.
        keys: what the person presses; None: the terminal, or lines of the standard input.

    Returns:
        How many labels there are.

    Raises:
        EvaluationError: there are no questions, or the file holds something else.
    """
    if not questions:
        raise EvaluationError("--label: expected placements to label, got none; run --part pages first")
    console = console or Console(highlight=False)
    labels = _read(path) if path.exists() else []
    order = list(questions)
    random.Random(seed).shuffle(order)
    with nullcontext(iter(keys)) if keys is not None else _pressed(sys.stdin) as pressed:
        console.print(_HELP)
        while _made(labels) < count:
            done = {(label.theme, label.product_id) for label in labels}
            question = next((each for each in order if (each.theme, each.product_id) not in done), None)
            if question is None:
                break
            console.print(f"\n[dim]{_made(labels) + 1} of {count}[/dim]  [b]{_plain(question.theme)}[/b]")
            console.print(f"    {_plain(question.product)}")
            key = next((key for key in pressed if key in (*_KEYS, _UNDO, _QUIT)), _QUIT)
            if key == _QUIT:
                break
            new = Label(question.theme, question.product_id, _KEYS.get(key))
            labels = labels[:-1] if key == _UNDO else [*labels, new]
            _write(path, labels)
    return _made(labels)


def _made(labels: Sequence[Label]) -> int:
    """How many labels there are, without skipped questions."""
    return sum(label.fits is not None for label in labels)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def _read(path: Path) -> list[Label]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path}: expected a file of labels, got {type(error).__name__}: {error}") from error
    labels = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            label = Label(str(row["theme"]), str(row["product_id"]), row["fits"])
            if label.fits not in (FITS, MISFIT, UNSURE):
                raise ValueError(label.fits)
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f'{path}, line {number}: expected a label such as {{"theme": "Soup", "product_id": "p1", "fits": 1}}, '
                f"got {line[:80]!r}"
            ) from error
        labels.append(label)
    return labels


def _write(path: Path, labels: Sequence[Label]) -> None:
    """Write all labels; a stop half way leaves the file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text("".join(json.dumps(asdict(label), ensure_ascii=False) + "\n" for label in labels), encoding="utf-8")
    new.replace(path)


@contextmanager
def _pressed(source: IO[str]) -> Iterator[Iterator[str]]:
    """The keys that are pressed in a terminal; of anything else, the first letter of each line."""
    if not source.isatty():
        yield (line.strip()[:1].lower() for line in source)
        return
    import termios
    import tty

    before = termios.tcgetattr(source.fileno())
    try:
        # What was typed before counts.
        tty.setcbreak(source.fileno(), termios.TCSADRAIN)
        yield (key.lower() for key in iter(lambda: source.read(1), ""))
    finally:
        termios.tcsetattr(source.fileno(), termios.TCSADRAIN, before)
