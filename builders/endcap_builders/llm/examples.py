"""Training examples of a student: prompt and completion, one JSON object a line."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from endcap_server.shop.prompts import KEYWORD_SEPARATOR


@dataclass(frozen=True)
class Example:
    """A prompt, and the teacher's answer."""

    prompt: str
    completion: str


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write one JSON object a line; return how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(asdict(example), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_examples(path: Path) -> list[Example]:
    """Read the file of `write_examples`.

    Raises:
        ValueError: names file and line of an invalid example.
    """
    examples = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                examples.append(Example(str(row["prompt"]), str(row["completion"])))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: expected an object with prompt and completion, got {line[:80]!r}; "
                    "run endcap build merchandising"
                ) from error
    return examples


def listed_candidates(prompt: str) -> list[str]:
    """Read the candidates from a keyword prompt."""
    listed = prompt.split("\n")[1].split(KEYWORD_SEPARATOR)
    return [text.rpartition(" ")[0] for text in listed]


def split_held_out(examples: list[Example], held_out: int) -> tuple[list[Example], list[Example]]:
    """Split into training and held-out examples, spread evenly; no held-out prompt is among the training prompts."""
    held_out = min(held_out, len(examples) // 5)
    if held_out == 0:
        return examples, examples[:1]
    step = len(examples) // held_out
    test = examples[::step][:held_out]
    prompts = {example.prompt for example in test}
    return [example for example in examples if example.prompt not in prompts], test
