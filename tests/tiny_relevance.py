"""A tiny furniture shop with graded judgements, and the steps of a build that relevance needs, with tiny encoders."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import tiny_encoders
import torch
from endcap_builders.pipeline import Pipeline
from endcap_builders.step import BuildContext, Settings, Step
from endcap_builders.steps import bi_encoder, captions, catalogue, cross_encoder, lexical, store, teacher
from rich.console import Console
from transformers import BertForSequenceClassification, BertTokenizerFast

THINGS = ("lamp", "table", "desk", "chair", "rug", "mug")
COLOURS = ("red", "blue", "oak", "brass", "wool")
TITLES = [f"{colour} {thing}" for thing in THINGS for colour in COLOURS]
QUERIES = [*THINGS, *TITLES]


def write_catalogue(folder: Path, judgements: pl.DataFrame | None) -> None:
    folder.mkdir(parents=True)
    pl.DataFrame(
        {
            "product_id": [f"p{row}" for row in range(len(TITLES))],
            "title": TITLES,
            "category": [f"home > {title.split()[1]}" for title in TITLES],
        }
    ).write_parquet(folder / "products.parquet")
    pl.DataFrame({"query": QUERIES, "count": range(len(QUERIES), 0, -1)}).write_parquet(folder / "queries.parquet")
    if judgements is not None:
        judgements.write_parquet(folder / "judgements.parquet")


def graded_by_words() -> pl.DataFrame:
    """Grade 1 + how many words of the query the title has, for every third product of each query."""
    rows = [
        (query, f"p{row}", 1.0 + len(set(query.split()) & set(title.split())))
        for number, query in enumerate(QUERIES)
        for row, title in enumerate(TITLES)
        if (row + number) % 3 == 0
    ]
    return pl.DataFrame(rows, schema=["query", "product_id", "relevance"], orient="row")


def write_theme_products(ctx: BuildContext, settings: Settings) -> dict[str, Any]:
    rows = [("Evening light: lamp", f"p{row}", float("lamp" in title)) for row, title in enumerate(TITLES)]
    frame = pl.DataFrame(rows, schema=["text", "product_id", "relevance"], orient="row")
    frame.write_parquet(ctx.output / "theme_products.parquet")
    return {}


MERCHANDISING = Step("merchandising", "writing theme products", ("store",), Settings, write_theme_products)
STEPS = [
    *(catalogue.STEP, bi_encoder.STEP, captions.STEP, store.STEP, lexical.STEP),
    *(MERCHANDISING, teacher.STEP, cross_encoder.STEP),
]


def pipeline(folder: Path, **overrides: dict[str, Any]) -> Pipeline:
    settings: dict[str, dict[str, Any]] = {
        "bi_encoder": {"checkpoint": str((folder / "sentences").resolve())},
        "store": {"keyword_least_similarity": -1.0, "max_product_tokens": 12},
        "teacher": {
            "checkpoint": str(folder / "classifier"),
            "learning_rate": 2e-3,
            "epochs": 15,
            "held_out_share": 0.2,
        },
        "cross_encoder": {"layers": 2, "learning_rate": 1e-3, "mined_queries": 12, "mined_group": 8, "shard_pairs": 40},
    }
    for name, values in overrides.items():
        settings[name] = {**settings[name], **values}
    return Pipeline(STEPS, folder / "build", folder / "catalogue", overrides=settings, console=Console(quiet=True))


def write_checkpoints(folder: Path) -> None:
    tiny_encoders.write_sentence_checkpoint(folder / "sentences")
    torch.manual_seed(0)
    classifier = folder / "classifier"
    BertForSequenceClassification(tiny_encoders.config(num_labels=1)).save_pretrained(classifier)
    tiny_encoders.write_tokenizer(classifier / "tokenizer.json")
    BertTokenizerFast(tokenizer_file=str(classifier / "tokenizer.json")).save_pretrained(classifier)


def write_shop(folder: Path) -> None:
    """The shop with judgements, and a build of it up to the first step that trains something."""
    write_catalogue(folder / "catalogue", graded_by_words())
    write_checkpoints(folder)
    steps = pipeline(folder)
    for step in ("catalogue", "bi_encoder", "captions", "store", "lexical"):
        steps.run(step)


def copy_shop(shop: Path, folder: Path) -> Path:
    """A shop of one's own, from one that `write_shop` wrote: its catalogue and checkpoints, and a copy of its build."""
    folder.mkdir(exist_ok=True)
    for name in ("catalogue", "sentences", "classifier"):
        (folder / name).symlink_to(shop / name)
    shutil.copytree(shop / "build", folder / "build")
    return folder
