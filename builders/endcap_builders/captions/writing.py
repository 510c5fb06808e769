"""Writes the captions of a catalogue, from pictures or its column `caption`; resumable, with counts and cost."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from PIL.Image import Image

from endcap_builders.captions.captioners import PROMPT, Captioner
from endcap_builders.captions.pictures import PictureError, Pictures

_READERS = 8


@dataclass
class Captions:
    """Captions of n products.

    Attributes:
        texts: "" without a caption.
        sources: "picture", "column" or "text" of each product.
        reasons: why products with an address of a picture have no caption -> how many.
        made: captions that were made now, not kept from before.
        seconds: of the captioner.
    """

    texts: list[str]
    sources: list[str]
    reasons: Counter[str] = field(default_factory=Counter)
    made: int = 0
    seconds: float = 0.0

    def figures(self, cost: float) -> dict[str, Any]:
        """Entry of the manifest."""
        return {
            "from": dict(Counter(self.sources)),
            "without_picture": dict(self.reasons),
            "made": self.made,
            "cost": round(cost, 4),
            "seconds_per_picture": round(self.seconds / self.made, 4) if self.made else 0.0,
        }

    def sentence(self, cost: float) -> str:
        """What the captions come from, as a line of the build's log."""
        sources = ", ".join(f"{count:,} from {name}" for name, count in Counter(self.sources).most_common())
        text = f"captions: {sources}"
        if self.made:
            text += f"; {self.made:,} made, {self.seconds / self.made:.2f} s each, cost {cost:.2f}"
        if self.reasons:
            text += "; not had: " + ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.most_common())
        return text


def given_captions(captions: pl.Series) -> Captions:
    """The captions that a catalogue brings."""
    texts = [" ".join((text or "").split()) for text in captions]
    return Captions(texts, ["column" if text else "text" for text in texts])


def written_captions(
    addresses: pl.Series,
    titles: pl.Series,
    pictures: Pictures,
    captioner: Captioner,
    kept: Path,
    batch: int,
    track: Callable[[Iterable[Any], str, float | None], Iterator[Any]],
) -> Captions:
    """Captions of pictures, at most ``batch`` at a time.

    Every answer is appended to ``kept`` with the hash of picture and prompt, so that an interrupted build goes on.
    """
    known = _read(kept)
    found = Captions([""] * len(addresses), ["text"] * len(addresses))
    wanted = [row for row, address in enumerate(addresses) if address]
    starts = range(0, len(wanted), batch)
    with ThreadPoolExecutor(_READERS) as pool, kept.open("a", encoding="utf-8") as file:
        for start in track(starts, f"captions (x{batch})", len(starts)):
            rows = wanted[start : start + batch]
            todo: dict[str, tuple[Image, str, list[int]]] = {}
            for row, read in zip(rows, pool.map(lambda row: _picture(pictures, addresses[row]), rows), strict=True):
                if isinstance(read, PictureError):
                    found.reasons[read.reason] += 1
                    continue
                data, image = read
                key = _key(captioner.name, titles[row], data)
                if key in known:
                    _take(found, row, known[key])
                else:
                    todo.setdefault(key, (image, titles[row], []))[2].append(row)
            if not todo:
                continue
            began = time.perf_counter()
            images, named = zip(*((image, title) for image, title, _ in todo.values()), strict=True)
            texts = captioner.captions(images, named)
            found.seconds += time.perf_counter() - began
            for (key, (_, _, members)), text in zip(todo.items(), texts, strict=True):
                known[key] = text
                file.write(json.dumps({"key": key, "caption": text}, ensure_ascii=False) + "\n")
                found.made += 1
                for row in members:
                    _take(found, row, text)
            file.flush()
    return found


def _take(found: Captions, row: int, text: str) -> None:
    if text:
        found.texts[row], found.sources[row] = text, "picture"
    else:
        found.reasons["no caption"] += 1


def _picture(pictures: Pictures, address: str) -> tuple[bytes, Image] | PictureError:
    try:
        data = pictures.data(address)
        return data, pictures.image(data)
    except PictureError as error:
        return error


def _key(model: str, title: str, data: bytes) -> str:
    digest = hashlib.sha256(data)
    digest.update(json.dumps([model, PROMPT, title]).encode())
    return digest.hexdigest()[:32]


def _read(path: Path) -> dict[str, str]:
    """Captions of before; a line that a killed build left unfinished is cut off."""
    known: dict[str, str] = {}
    if not path.exists():
        return known
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    for line in text.splitlines():
        row = json.loads(line)
        known[row["key"]] = row["caption"]
    return known
