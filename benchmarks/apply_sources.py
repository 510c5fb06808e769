"""Builds that tests and measurements of `endcap apply` roll out: valid edits, faulty edits, and other builds.

A copied build shares its artefacts with the original by hard links. A change therefore replaces a file, and never
writes into it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from endcap_builders.build_folder import file_hashes
from endcap_builders.step import files_read
from endcap_builders.steps import all_steps
from endcap_server.generations.snapshot import take_snapshot
from endcap_server.shop.columns import StringColumn

CONFIG = "config.pbtxt"
Act = Callable[[Path], None]


@dataclass(frozen=True)
class Edit:
    """One edit of a build.

    Attributes:
        name: Description of the edit.
        act: Function that applies the edit to a build.
        stopped_by: The check that finds a faulty edit: lint, loading or comparing.
    """

    name: str
    act: Act
    stopped_by: str = ""


def copy_build(build: Path, folder: Path) -> Path:
    """Copy a build; the copy shares the contents of the artefacts."""
    take_snapshot(build / "repository", build, folder)
    return folder


def put(path: Path, text: str | bytes) -> None:
    """Replace a file that may have other hard links."""
    path.unlink(missing_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def config(model: str, *changes: tuple[str, str]) -> Act:
    """Replace texts in the model's configuration; each of them must occur there."""

    def act(build: Path) -> None:
        path = build / "repository" / model / CONFIG
        text = path.read_text(encoding="utf-8")
        for old, new in changes:
            if old not in text:
                raise ValueError(f"{path}: expected {old!r} in it")
            text = text.replace(old, new, 1)
        put(path, text)

    return act


def parameter(model: str, name: str, value: str) -> Act:
    """Set a parameter of a model, whether or not the configuration has it already."""

    def act(build: Path) -> None:
        path = build / "repository" / model / CONFIG
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
        line = f'parameters {{ key: "{name}" value: {{ string_value: "{value}" }} }}'
        put(path, "\n".join([*(each for each in lines if f'key: "{name}"' not in each), line]) + "\n")

    return act


def code(model: str, body: str) -> Act:
    """Append code to a model's code."""

    def act(build: Path) -> None:
        path = build / "repository" / model / "1" / "model.py"
        put(path, path.read_text(encoding="utf-8") + body)

    return act


def rewrite(name: str, text: str | bytes, *, listed: bool) -> Act:
    """Replace the content of a file of the build; with `listed`, also update its entry in the manifest."""

    def act(build: Path) -> None:
        put(build / name, text)
        if listed:
            list_files(build)

    return act


def remove(name: str) -> Act:
    """Delete a file of the build."""
    return lambda build: (build / name).unlink()


def list_files(build: Path) -> None:
    """Rewrite the manifest for the build's current files, as if the build's steps had written them."""
    path = build / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for step in all_steps():
        entry = manifest["steps"].get(step.name)
        if entry is not None and step.name != "repository":
            entry["files"] = file_hashes(build / step.name)
            entry["read"] = files_read(step, manifest["steps"])
    put(path, json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def other_build(build: Path, folder: Path, tag: str) -> Path:
    """A build in which everything differs: product ids begin with `tag`, and every artefact's file differs."""
    copy_build(build, folder)
    store = folder / "store"
    ids = [tag + each for each in StringColumn.open(build / "store", "product_ids")]
    for part in ("bytes", "offsets", "hashes", "order"):
        (store / f"product_ids.{part}.npy").unlink()
    StringColumn.write(store, "product_ids", ids)
    popularity = np.load(store / "popularity.npy")
    (store / "popularity.npy").unlink()
    np.save(store / "popularity.npy", np.roll(popularity, len(tag)))
    for name in ("bi_encoder/encoder.json", "cross_encoder/calibration.json", "ranker/ranker.json"):
        text = (folder / name).read_text(encoding="utf-8")
        put(folder / name, text.rstrip("\n") + "\n" * (1 + len(tag)))
    for name in ("theme_llm/config.json", "keyword_llm/tokenizer.json"):
        text = (folder / name).read_text(encoding="utf-8")
        put(folder / name, text.rstrip("\n") + "\n" * (1 + len(tag)))
    list_files(folder)
    return folder


_STEP_RERANK = 'model_name: "rerank"'
_FAILING = """

class TritonPythonModel(TritonPythonModel):
    def execute(self, requests):
        raise RuntimeError("a mistake in the code")
"""
_DYING = """

class TritonPythonModel(TritonPythonModel):
    def execute(self, requests):
        import os
        os._exit(3)
"""
_SLOW = """

class TritonPythonModel(TritonPythonModel):
    def execute(self, requests):
        import time
        time.sleep(0.3)
        super().execute(requests)
"""

FAULTY = (
    Edit("misspelt tensor", config("storefront", ('key: "KEYWORDS" value', 'key: "KEYWORD" value')), "lint"),
    Edit(
        "wrong type", config("rerank", ('"MEASURED" data_type: TYPE_FP32', '"MEASURED" data_type: TYPE_FP64')), "lint"
    ),
    Edit(
        "wrong shape",
        config("fusion", ("TYPE_FP32 dims: [ -1, -1, 3 ]", "TYPE_FP32 dims: [ -1, -1, 4 ]")),
        "lint",
    ),
    Edit(
        "cycle",
        config(
            "search",
            (
                'key: "CANDIDATE_ROW" value: "candidate_row" }\n      input_map',
                'key: "CANDIDATE_ROW" value: "row" }\n      input_map',
            ),
        ),
        "lint",
    ),
    Edit("missing model", config("search", (_STEP_RERANK, 'model_name: "rerang"')), "lint"),
    Edit(
        "truncated file",
        lambda build: put(
            build / "repository/storefront/config.pbtxt",
            (build / "repository/storefront/config.pbtxt").read_bytes()[:2000],
        ),
        "lint",
    ),
    Edit("absurd weight", parameter("fusion", "search_popularity", "100"), "compare"),
    Edit("absurd weight of retrieval's order", parameter("fusion", "search_retrieval", "100"), "compare"),
    Edit("weight out of range", parameter("fusion", "margin", "1e6"), "lint"),
    Edit("unknown parameter", parameter("retrieval", "candidats", "10"), "lint"),
    Edit("number that is none", parameter("retrieval", "interests", "four"), "lint"),
    Edit("deleted artefact", remove("cross_encoder/model.bin"), "lint"),
    Edit("deleted index", remove("index/products.faiss"), "lint"),
    Edit("damaged artefact", rewrite("ranker/model.txt", "tree\n", listed=False), "lint"),
    Edit("damaged manifest", rewrite("manifest.json", "{", listed=False), "lint"),
    Edit("deleted code", remove("repository/theme/1/model.py"), "lint"),
    Edit("code with a syntax error", code("theme", "\ndef\n"), "lint"),
    Edit(
        "cache where it cannot work",
        config("nearest", ('backend: "python"', 'backend: "python"\nresponse_cache { enable: true }')),
        "lint",
    ),
    Edit("batching a stage", config("rerank", ("max_batch_size: 0", "max_batch_size: 8")), "lint"),
    Edit(
        "decoupled",
        config("keywords", ('backend: "python"', 'backend: "python"\nmodel_transaction_policy { decoupled: true }')),
        "lint",
    ),
    Edit("GPU without one", config("cross_encoder", ("KIND_CPU", "KIND_GPU")), "lint"),
    Edit("unknown backend", config("theme_llm", ('backend: "python"', 'backend: "pyton"')), "lint"),
    Edit("no such number of instances", config("fusion", ("count: 1", "count: 4000")), "lint"),
    Edit("public tensor renamed", config("search", ('{ name: "SCORE"', '{ name: "SCORES"')), "lint"),
    Edit(
        "optional input required",
        config(
            "search",
            (
                '"HISTORY" data_type: TYPE_STRING dims: [ -1 ] optional: true',
                '"HISTORY" data_type: TYPE_STRING dims: [ -1 ]',
            ),
        ),
        "lint",
    ),
    Edit(
        "not UTF-8",
        lambda build: put(
            build / "repository/fusion/config.pbtxt",
            b"# \xff\n" + (build / "repository/fusion/config.pbtxt").read_bytes(),
        ),
        "lint",
    ),
    Edit("budget that leaves nothing", parameter("retrieval", "theme_share", "0.7"), "lint"),
    Edit("import of what is not there", code("keywords", "\nimport endcap_nothing\n"), "load"),
    Edit("store of another format", rewrite("store/store.json", '{"format": 99}', listed=True), "load"),
    Edit("ranker that is no model", rewrite("ranker/model.txt", "tree\nnonsense\n", listed=True), "load"),
    Edit("engine that is no model", rewrite("cross_encoder/model.xml", "<net/>", listed=True), "load"),
    Edit("code that fails on every request", code("rerank", _FAILING), "compare"),
    Edit("code that ends its process", code("rerank", _DYING), "compare"),
    Edit("slow code", code("fusion", _SLOW), "compare"),
    Edit("share too small for any theme", parameter("retrieval", "theme_share", "0.001"), "lint"),
)
"""Faulty edits of every kind; each must be refused before it serves requests."""

GOOD = (
    Edit("fusion: margin", parameter("fusion", "margin", "0.27")),
    Edit("fusion: ranker", parameter("fusion", "ranker", "0.33")),
    Edit("rerank: fewer pairs", parameter("rerank", "pairs_per_placement", "36")),
    Edit("retrieval: more candidates", parameter("retrieval", "candidates", "220")),
    Edit("keywords: fit", parameter("keywords", "fit_floor", "0.24")),
    Edit("theme: similarity", parameter("theme", "max_similarity", "0.93")),
    Edit("nearest: cache", parameter("nearest", "cache_texts", "12000")),
    Edit("cross_encoder: cache", parameter("cross_encoder", "cache_pairs", "210000")),
    Edit("retrieval: longer default budget", parameter("retrieval", "default_budget_ms", "2100")),
    Edit("fusion: two processes", config("fusion", ("count: 1", "count: 2"))),
    Edit("fusion: one process", config("fusion", ("count: 2", "count: 1"))),
    Edit("keywords: no cache", parameter("keywords", "cache_entries", "0")),
    Edit("keywords: cache", parameter("keywords", "cache_entries", "10000")),
    Edit("rerank: personal share", parameter("rerank", "personal_share", "0.3")),
    Edit("theme: tokens", parameter("theme", "tokens_per_theme", "60")),
    Edit("keyword_llm: batch", parameter("keyword_llm", "max_batch_prompts", "48")),
    Edit("fusion: diversity", parameter("fusion", "diversity", "0.14")),
    Edit("retrieval: half-life", parameter("retrieval", "half_life", "22.0")),
    Edit("fusion: search weight", parameter("fusion", "search_similarity", "0.16")),
    Edit("rerank: search pairs", parameter("rerank", "search_pairs", "96")),
    Edit("retrieval: shares", parameter("retrieval", "keywords_share", "0.26")),
)
"""Valid edits of stages and engines, to be applied one after another."""
