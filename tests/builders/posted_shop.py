"""A build of few products with a tiny cross-encoder, for the step `postings`; other steps write what they are told."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from endcap_builders.catalogue import write_catalogue
from endcap_builders.pipeline import Pipeline
from endcap_builders.step import BuildContext, Settings, Step
from endcap_builders.steps import postings
from endcap_server.engines.bi_encoder import load_tokenizer
from endcap_server.shop.postings import Postings
from endcap_server.shop.store import ItemStore, Ragged, tokenizer_digest, write_columns
from rich.console import Console
from tiny_store import write_tiny_keywords, write_tiny_products

THINGS = ("lamp", "rug", "mug")
TITLES = tuple(f"{colour} {thing}" for thing in THINGS for colour in ("red", "blue", "oak", "brass"))
KEYWORDS = ("desk lamp", "wool rug", "tea mug", "garden hose")
PRODUCTS_OF_A_KEYWORD = 5


def vector(text: str) -> np.ndarray:
    """A vector of the text's letters, float32 [26] of unit length."""
    counts = np.bincount([ord(each) - ord("a") for each in text if each.isalpha()], minlength=26).astype(np.float32)
    return counts / np.linalg.norm(counts)


@dataclass
class PostedShop:
    """A build folder, and what its steps write."""

    folder: Path
    model: Path
    titles: tuple[str, ...] = TITLES
    keywords: tuple[str, ...] = KEYWORDS
    bias: float = -0.5
    installed: bool = True
    settings: dict[str, Any] = field(default_factory=lambda: {"shard_pairs": 8})

    def run(self, *, force: bool = False) -> dict[str, Any]:
        """Build; the figures of the step `postings`."""
        write_catalogue(
            self.folder / "catalogue", pl.DataFrame({"product_id": list(self.titles), "title": self.titles})
        )
        writers = {"store": self._store, "index": self._index, "topics": _nothing}
        writers |= {"cross_encoder": self._cross_encoder, "gates": self._gates}
        steps = [Step(name, "", (), Settings, run) for name, run in writers.items()]
        pipeline = Pipeline(
            [*steps, postings.STEP], self.build, self.folder / "catalogue", overrides={"postings": self.settings},
            console=Console(quiet=True),
        )  # fmt: skip
        for name in writers:
            pipeline.run(name, force=True)
        figures: dict[str, Any] = pipeline.run("postings", force=force)["steps"]["postings"]["figures"]
        return {name: value for name, value in figures.items() if name != "seconds"}

    @property
    def build(self) -> Path:
        """The build folder."""
        return self.folder / "build"

    @property
    def store(self) -> ItemStore:
        """The products of the build."""
        return ItemStore.open(self.build)

    @property
    def postings(self) -> Postings:
        """The postings of the build."""
        return Postings.open(self.build, self.store)

    def _store(self, ctx: BuildContext, settings: Settings) -> dict[str, Any]:
        tokenizer = load_tokenizer(self.model / "tokenizer.json")
        kinds = sorted({title.split()[-1] for title in self.titles})
        write_tiny_products(
            ctx.work,
            np.stack([vector(title) for title in self.titles]),
            titles=self.titles,
            category=np.array([kinds.index(title.split()[-1]) for title in self.titles]),
            categories=kinds,
            popularity=np.linspace(0, 1, len(self.titles)),
            tokens=Ragged.of([tokenizer.encode(title, add_special_tokens=False).ids for title in self.titles]),
            tokenizer=tokenizer_digest(tokenizer),
        )
        write_tiny_keywords(ctx.work, list(self.keywords), np.stack([vector(text) for text in self.keywords]))
        shutil.copytree(ctx.work / "store", ctx.output, dirs_exist_ok=True)
        return {}

    def _index(self, ctx: BuildContext, settings: Settings) -> dict[str, Any]:
        near = np.stack([vector(text) for text in self.keywords]) @ np.stack([vector(text) for text in self.titles]).T
        rows = np.full((len(self.keywords), 64), -1)
        rows[:, :PRODUCTS_OF_A_KEYWORD] = np.argsort(-near, axis=1, kind="stable")[:, :PRODUCTS_OF_A_KEYWORD]
        write_columns(ctx.output, keyword_products=rows, keyword_category=np.full(len(self.keywords), -1))
        return {}

    def _cross_encoder(self, ctx: BuildContext, settings: Settings) -> dict[str, Any]:
        shutil.copytree(self.model, ctx.output, dirs_exist_ok=True)
        calibration = {"scale": 2.0, "bias": self.bias, "temperature": 0.3}
        (ctx.output / "calibration.json").write_text(json.dumps(calibration), encoding="utf-8")
        return {}

    def _gates(self, ctx: BuildContext, settings: Settings) -> dict[str, Any]:
        verdict = {"cross_encoder": {"installed": self.installed, "serves": "bi-encoder"}}
        (ctx.output / "gates.json").write_text(json.dumps(verdict), encoding="utf-8")
        return {}


def _nothing(ctx: BuildContext, settings: Settings) -> dict[str, Any]:
    return {}
