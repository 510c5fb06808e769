"""A tiny shop: a real item store of 64 products and engines small enough to run in the test's process.

The engines do what the heavy ones do on a small scale - bag-of-words vectors searched exhaustively, word overlap as
relevance, a student that knows six themes - and can be told to fail.
"""

import asyncio
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from endcap_server.declared.deadline import left_ms
from endcap_server.declared.errors import EngineError, EngineTimeout
from endcap_server.declared.reasons import Cause
from endcap_server.declared.tensors import Tensors, bytes_tensor, texts_of
from endcap_server.shop.prompts import ThemeDraft, listed_candidates, theme_completion
from endcap_server.shop.store import ItemStore, Ragged, write_columns
from tiny_store import write_tiny_keywords, write_tiny_products

DIMENSION = 96
CATEGORIES = {
    "home > lamps": ("desk lamp", "floor lamp", "reading lamp", "lamp shade"),
    "home > rugs": ("wool rug", "round rug", "hallway rug", "rug pad"),
    "garden > tools": ("garden spade", "garden rake", "hand pruner", "wheel barrow"),
    "garden > seeds": ("tomato seeds", "herb seeds", "flower seeds", "salad seeds"),
    "grocery > snacks": ("salted nuts", "potato crisps", "rice crackers", "dried fruit"),
    "grocery > drinks": ("apple juice", "green tea", "ground coffee", "oat drink"),
    "toys > puzzles": ("wooden puzzle", "jigsaw puzzle", "animal puzzle", "map puzzle"),
    "toys > games": ("board game", "card game", "dice game", "party game"),
}
BRANDS = ("Norrland", "Kiefer & Co", "Blauwal", "Ostara")
THEMES = (
    ThemeDraft("Light up the evening", ("desk lamp", "floor lamp")),
    ThemeDraft("Soft underfoot", ("wool rug", "hallway rug")),
    ThemeDraft("Ready to plant", ("garden spade", "tomato seeds")),
    ThemeDraft("Snacks for the sofa", ("salted nuts", "potato crisps")),
    ThemeDraft("A warm cup", ("green tea", "ground coffee")),
    ThemeDraft("Rainy day play", ("board game", "jigsaw puzzle")),
    ThemeDraft("Round the table", ("card game", "party game")),
    ThemeDraft("Herbs on the sill", ("herb seeds", "salad seeds")),
)


def embed(text: str) -> np.ndarray:
    """Bag of words, each a fixed random direction: float32 [DIMENSION] of unit length."""
    total = np.zeros(DIMENSION)
    for word in re.findall(r"\w+", text.lower()):
        seed = int.from_bytes(hashlib.blake2b(word.rstrip("s").encode(), digest_size=4).digest(), "little")
        total += np.random.default_rng(seed).standard_normal(DIMENSION)
    return (total / max(float(np.linalg.norm(total)), 1e-9)).astype(np.float32)


def product_titles() -> list[str]:
    """Titles of the 64 products, 8 of each category in order."""
    return [
        f"{BRANDS[(position + number) % len(BRANDS)]} {kinds[number % len(kinds)]} {'small' if number < 4 else 'large'}"
        for position, kinds in enumerate(CATEGORIES.values())
        for number in range(8)
    ]


def build_shop(build: Path, out_of_stock: tuple[int, ...] = (), categories: bool = True) -> Path:
    """Write the store of the tiny shop; product ``row`` is ``p<row>``, 8 of each category (or without any) in order."""
    titles = product_titles()
    ids = [f"p{row}" for row in range(len(titles))]
    brand = [(row // 8 + row % 8) % len(BRANDS) for row in range(len(titles))]
    category = [row // 8 if categories else -1 for row in range(len(titles))]
    vectors = np.stack([embed(title) for title in titles])
    in_stock = np.ones(len(ids), bool)
    in_stock[list(out_of_stock)] = False
    write_tiny_products(
        build,
        vectors,
        product_ids=ids,
        titles=titles,
        brand=np.array(brand),
        brands=BRANDS,
        category=np.array(category),
        categories=tuple(CATEGORIES) if categories else (),
        price=np.full(len(ids), 9.5),
        in_stock=in_stock,
        popularity=np.linspace(1, 0, len(ids)),
        tokens=Ragged.of([[1]] * len(ids)),
        tokenizer="tiny",
    )
    keywords = [keyword for kinds in CATEGORIES.values() for keyword in kinds]
    keyword_vectors = np.stack([embed(keyword) for keyword in keywords])
    write_tiny_keywords(build, keywords, keyword_vectors)
    links = np.full((len(keywords), 64), -1)
    best = np.argsort(-(keyword_vectors @ vectors.T), axis=1, kind="stable")[:, :10]
    links[:, :10] = best
    of_category = np.repeat(np.arange(len(CATEGORIES)), 4) if categories else np.full(len(keywords), -1)
    write_columns(build / "index", keyword_products=links, keyword_category=of_category)
    return build


class TinyEngines:
    """Engines over a tiny shop; ``broken[name]`` is "dead", "late" or what it answers.

    That is a text for each prompt, line by line; of `keyword_llm`, the numbers of the candidates that it prefers.
    """

    def __init__(self, build: Path, broken: dict[str, str] | None = None):
        self.store = ItemStore.open(build)
        self.broken = broken or {}
        self.calls: list[tuple[str, Tensors]] = []

    async def call(self, engine: str, inputs: Tensors, deadline_ns: int, outputs: tuple[str, ...]) -> Tensors:
        self.calls.append((engine, inputs))
        failure = self.broken.get(engine)
        if failure == "dead":
            raise EngineError(engine, "is not ready", Cause.UNAVAILABLE)
        if failure == "late" or left_ms(deadline_ns) <= 0:
            await asyncio.sleep(max(0.0, left_ms(deadline_ns)) / 1e3)
            raise EngineTimeout(engine)
        answer: dict[str, Any] = getattr(self, engine)(inputs)
        if failure:
            texts = failure.split("\n")
            if engine == "keyword_llm":
                for line in range(len(answer["LOGIT"])):
                    for place, number in enumerate(texts[line % len(texts)].split()):
                        answer["LOGIT"][line, int(number) - 1] = 100 - place
            else:
                answer["TEXT"] = bytes_tensor([texts[i % len(texts)] for i in range(len(answer["TEXT"]))])
        return {name: answer[name] for name in outputs}

    def nearest(self, inputs: Tensors) -> dict[str, Any]:
        index = texts_of(inputs["INDEX"])[0] if "INDEX" in inputs else ""
        if index == "words":
            return self._words(texts_of(inputs["TEXT"])[0], int(inputs["K"][0]), inputs.get("ALLOWED"))
        vectors = np.stack([embed(text) for text in texts_of(inputs["TEXT"])]) if "TEXT" in inputs else inputs["VECTOR"]
        if not index:
            return {"VECTOR": vectors}
        of_products = index == "products"
        table = self.store.vectors if of_products else self.store.keyword_vectors
        similarity = vectors @ table.astype(np.float32).T
        if "ALLOWED" in inputs:
            similarity[:, ~np.unpackbits(inputs["ALLOWED"], count=len(table), bitorder="little").astype(bool)] = -np.inf
        rows = np.argsort(-similarity, axis=1, kind="stable")[:, : int(inputs["K"][0])]
        similarity = np.take_along_axis(similarity, rows, 1)
        found = np.isfinite(similarity)
        return {
            "ROW": np.where(found, rows, -1).astype(np.int32),
            "SIMILARITY": np.where(found, similarity, np.nan).astype(np.float32),
            "VECTOR": vectors,
        }

    def _words(self, text: str, count: int, allowed: np.ndarray | None) -> dict[str, Any]:
        words = set(text.lower().split())
        score = np.array([len(words & set(title.lower().split())) for title in self.store.titles], np.float32)
        exact = np.array([name == text for name in self.store.product_ids])
        shown = (score > 0) | exact
        if allowed is not None:
            shown &= np.unpackbits(allowed, count=len(score), bitorder="little").astype(bool)
        rows = np.flatnonzero(shown)
        rows = rows[np.lexsort((-score[rows], ~exact[rows]))][:count]
        return {"ROW": rows[None].astype(np.int32), "SIMILARITY": score[rows][None], "EXACT": exact[rows][None]}

    def cross_encoder(self, inputs: Tensors) -> dict[str, Any]:
        rows = inputs["ROW"]
        texts = np.stack([embed(text) for text in texts_of(inputs["TEXT"])])
        products = self.store.vectors[np.maximum(rows, 0)].astype(np.float32)
        logits = 8 * np.einsum("td,tmd->tm", texts, products) - 2
        wins = 1 / (1 + np.exp(-(logits[:, :, None] - logits[:, None, :])))
        margin = np.nanmean(np.where((rows >= 0)[:, None, :], wins, np.nan), axis=2)
        score = 1 / (1 + np.exp(-logits))
        return {
            "SCORE": np.where(rows >= 0, score, np.nan).astype(np.float32),
            "MARGIN": np.where(rows >= 0, margin, np.nan).astype(np.float32),
        }

    def theme_llm(self, inputs: Tensors) -> dict[str, Any]:
        texts = []
        for prompt, grammar in zip(texts_of(inputs["PROMPT"]), texts_of(inputs["GRAMMAR"]), strict=True):
            count = int(prompt.rstrip().splitlines()[-1].split()[0])
            forced = re.findall(r'"([^"\\]+)" rest', grammar.splitlines()[0])
            titles = [ThemeDraft(title, (title.lower(), "apple juice")) for title in forced]
            texts.append(theme_completion([*titles, *THEMES][:count]))
        return {"TEXT": bytes_tensor(texts), "FINISH": bytes_tensor(["stop"] * len(texts))}

    def keyword_llm(self, inputs: Tensors) -> dict[str, Any]:
        """The nearest first."""
        counts = inputs["COUNT"]
        assert [len(listed_candidates(prompt)) for prompt in texts_of(inputs["PROMPT"])] == counts.tolist()
        places = np.arange(int(counts.max()), dtype=np.int32)
        given = places < counts[:, None]
        return {
            "ORDER": np.where(given, places, -1).astype(np.int32),
            "LOGIT": np.where(given, -places, 0).astype(np.float32),
        }
