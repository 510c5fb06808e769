"""Training examples of a student, one JSON object a line: texts to write, or candidates to order."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter


@dataclass(frozen=True)
class Example:
    """A prompt, and the teacher's answer."""

    prompt: str
    completion: str

    @property
    def texts(self) -> tuple[str, ...]:
        """What the tokenizer learns from."""
        return self.prompt, self.completion


@dataclass(frozen=True)
class OrderExample:
    """A prompt with candidates, and those that the teacher chose: numbers from 0, the best first."""

    prompt: str
    order: tuple[int, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """What the tokenizer learns from."""
        return (self.prompt,)


AnyExample = TypeVar("AnyExample", Example, OrderExample)


def write_examples(path: Path, examples: Iterable[Example | OrderExample]) -> int:
    """Write one JSON object a line; return how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(asdict(example), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_examples(path: Path, kind: type[AnyExample]) -> list[AnyExample]:
    """Read the file of `write_examples`.

    Raises:
        ValueError: names file and line of an invalid example.
    """
    adapter, examples = TypeAdapter(kind), []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                examples.append(adapter.validate_json(line))
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number}: expected an object with {' and '.join(kind.__annotations__)}, got "
                    f"{line[:80]!r}; run endcap build merchandising"
                ) from error
    return examples


def split_held_out(examples: Sequence[AnyExample], held_out: int) -> tuple[list[AnyExample], list[AnyExample]]:
    """Split into training and held-out examples, spread evenly; no held-out prompt is among the training prompts."""
    held_out = min(held_out, len(examples) // 5)
    if held_out == 0:
        return list(examples), list(examples[:1])
    step = len(examples) // held_out
    test = list(examples[::step][:held_out])
    prompts = {example.prompt for example in test}
    return [example for example in examples if example.prompt not in prompts], test
