"""The topics of a catalogue, the possible subjects of themes.

A topic is a category, at the deepest level of the tree with at most 500 categories. In a catalogue without categories
(a plain list of titles), it is a frequent search keyword or n-gram of titles, with the products that it names. The rest
of the teacher uses topics only.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from endcap_server.shop.prompts import CONCEPT_CHARACTERS, clean, leaf_name, plain_words
from endcap_server.shop.store import ItemStore
from endcap_server.shop.words import stems, words

from endcap_builders.catalogue.schema import PATH_SEPARATOR
from endcap_builders.catalogue.shopper_words import shopper_words
from endcap_builders.merchandising.kind_names import kind_names

Array = np.ndarray[Any, Any]

_LEAST_PRODUCTS = (5, 3, 2, 1)  # of a topic; fewer only where a small shop would have too few topics
_FEW_TOPICS = 20
_MAX_TOPICS = 500
_KEYWORD_AGREEMENT = 0.6
_NAMED_AGREEMENT = 0.5
_CONCEPTS = 24
_BEST_PRODUCTS = 16
_WELL_KNOWN = 5
_LEAST_LIKENESS = 0.62
_OWN_TITLES = 0.5
_PLURALS = 0.2


@dataclass(frozen=True)
class Topic:
    """One topic."""

    name: str
    parent: str  # name of the category above, "" if none
    rows: Array  # int32, its products, most popular first
    concepts: tuple[str, ...]  # shoppers' names of its products, best first; at least one


@dataclass(frozen=True)
class Topics:
    """All topics of a catalogue, largest first."""

    topics: list[Topic]
    of_product: Array  # int32 [products], -1 none
    of_keyword: Array  # int32 [keywords], -1 mixed
    conceptual: Array  # bool [keywords], can be a concept: plain, well-spelled words, no brand, no size

    def __len__(self) -> int:
        return len(self.topics)

    def __getitem__(self, index: int) -> Topic:
        return self.topics[index]

    def by_name(self) -> dict[str, int]:
        """Positions of the topics."""
        return {topic.name: index for index, topic in enumerate(self.topics)}


def presentable(text: str) -> bool:
    """Whether a keyword can be a concept: a few plain words that the theme grammar can write."""
    return 3 <= len(text) <= CONCEPT_CHARACTERS and plain_words(text) and text == clean(text, len(text))


class TitleIndex:
    """Finds products whose titles contain all words of a text."""

    def __init__(self, titles: Iterable[str]) -> None:
        rows_of: dict[str, list[int]] = defaultdict(list)
        for row, title in enumerate(titles):
            for word in stems(title):
                rows_of[word].append(row)
        self._rows = {word: np.asarray(rows, np.int32) for word, rows in rows_of.items()}
        self._none = np.empty(0, np.int32)

    def match(self, parts: frozenset[str]) -> Array:
        """Rows, ascending, whose titles have all these stems."""
        found = sorted((self._rows.get(part, self._none) for part in parts), key=len)
        rows = found[0] if found else self._none
        for other in found[1:]:
            rows = rows[np.isin(rows, other, assume_unique=True)]
        return rows


def find_topics(store: ItemStore) -> Topics:
    """Find the topics of a catalogue, and the names of their products."""
    index = TitleIndex(store.titles)
    categories = _categories(store)
    with_categories = sum(bool(name) for name in categories.names) > len(store) // 2
    for least in _LEAST_PRODUCTS:
        labels = categories.names if with_categories else _keyword_labels(store, index, least)
        sizes = Counter(label for label in labels if label)
        kept = [name for name, size in sizes.most_common(_MAX_TOPICS) if size >= least]
        if len(kept) >= _FEW_TOPICS:
            break
    parents = categories.parents if with_categories else {}
    position = {name: place for place, name in enumerate(kept)}
    of_product = np.array([position.get(label, -1) for label in labels], np.int32)
    conceptual = _conceptual(store, index) & _spelled(store, index)
    of_keyword, worth = _keyword_topics(store, index, of_product)
    concepts = _concepts(store, of_keyword, np.where(conceptual, worth, 0.0), len(kept))
    topics = []
    for place, name in enumerate(kept):
        rows = np.flatnonzero(of_product == place).astype(np.int32)
        rows = rows[np.argsort(-store.popularity[rows], kind="stable")]
        topics.append(Topic(name, parents.get(name, ""), rows, concepts[place] or (name,)))
    return Topics(topics, of_product, of_keyword, conceptual)


@dataclass(frozen=True)
class _Categories:
    """The name of each product's category at the level of topics; "" if it has no presentable name."""

    names: list[str]  # by product
    parents: dict[str, str]  # name -> name of the category above


def _categories(store: ItemStore) -> _Categories:
    """Names at the deepest level of the category tree with at most `_MAX_TOPICS` categories.

    Below that level, categories are narrower than shoppers' needs ("fluid milk white only"), and many names are codes.
    """
    paths = [tuple(part.strip() for part in path.split(PATH_SEPARATOR)) for path in store.categories]
    depth = max((len(path) for path in paths), default=0)
    while depth > 1 and len({path[:depth] for path in paths}) > _MAX_TOPICS:
        depth -= 1
    joint = f" {PATH_SEPARATOR} "
    labels = {joint.join(path): label for path, label in zip(paths, store.category_labels, strict=True)}
    cut = [joint.join(path[:depth]) for path in paths]
    unlabelled = {path for path in cut if path not in labels}
    labels |= {path: label.text for path, label in shopper_words(unlabelled).items()}
    of_product = [cut[index] if index >= 0 else "" for index in store.category.tolist()]
    # Without events, every product counts alike.
    sales = (store.popularity + 1e-3).tolist()
    named = kind_names({path: labels[path] for path in set(cut)}, of_product, list(store.titles), sales)
    names: list[str] = []
    parents: dict[str, str] = {}
    for path in cut:
        name = named[path]
        names.append(name if presentable(name) else "")
        above, _, _ = path.rpartition(joint)
        if above:
            parents.setdefault(name, leaf_name(above))
    return _Categories([names[index] if index >= 0 else "" for index in store.category.tolist()], parents)


def _keyword_labels(store: ItemStore, index: TitleIndex, least: int) -> list[str]:
    """Give each product the name of the first topic keyword that its title contains."""
    limit = max(12, len(store) // 25)
    found: list[tuple[float, str, Array]] = []
    for text in store.keywords:
        parts = stems(text)
        if not 1 <= len(parts) <= 3 or not presentable(text) or any(part[0].isdigit() for part in parts):
            continue
        rows = index.match(parts)
        if least <= len(rows) <= limit:
            likeness = _likeness(store, rows)
            if likeness >= _LEAST_LIKENESS:
                # Two words usually name a thing ("ceiling fan"); one word is often a brand or a material.
                found.append((len(rows) * likeness**2 * (1.0 if " " in text else 0.4), text, rows))
    found.sort(key=lambda item: (-item[0], item[1]))
    labels = [""] * len(store)
    used = 0
    for _, text, rows in found:
        free = [row for row in rows.tolist() if not labels[row]]
        if len(free) >= max(least, len(rows) // 2):
            for row in free:
                labels[row] = text
            used += 1
            if used == _MAX_TOPICS:
                break
    return labels


def _likeness(store: ItemStore, rows: Array) -> float:
    """Similarity of products (length of their mean vector): high for fans, low for things that are only all round."""
    return float(np.linalg.norm(store.vectors[rows[:: max(1, len(rows) // 60)]].astype(np.float32).mean(axis=0)))


def _conceptual(store: ItemStore, index: TitleIndex) -> Array:
    """Which keywords can be concepts: plain words, at least one of them a real word, and no brand."""
    brands = [stems(brand) for brand in store.brands]
    brand_words = {word for brand in brands if len(brand) == 1 for word in brand}
    brand_words -= _ordinary_words(store, index, brand_words)
    of_first: dict[str, list[frozenset[str]]] = defaultdict(list)
    for brand in brands:
        if len(brand) > 1:
            of_first[min(brand)].append(brand)
    result = np.zeros(len(store.keywords), bool)
    for row, text in enumerate(store.keywords):
        parts = stems(text)
        if presentable(text) and any(_is_word(part) for part in parts) and not parts & brand_words:
            result[row] = not any(brand <= parts for part in parts for brand in of_first.get(part, ()))
    return result


def _is_word(part: str) -> bool:
    """Whether a stem is a word: "2", "12oz" and "xl" are sizes."""
    return len(part) > 2 and not part[0].isdigit()


def _ordinary_words(store: ItemStore, index: TitleIndex, brand_words: Collection[str]) -> set[str]:
    """Brand names that are ordinary words ("Simple", "Dove"): most titles that contain them are of other brands."""
    of_brand: dict[str, list[int]] = defaultdict(list)
    for position, brand in enumerate(store.brands):
        parts = stems(brand)
        if len(parts) == 1 and (word := next(iter(parts))) in brand_words:
            of_brand[word].append(position)
    ordinary = set()
    for word, positions in of_brand.items():
        rows = index.match(frozenset([word]))
        if len(rows) and np.isin(store.brand[rows], positions).mean() < _OWN_TITLES:
            ordinary.add(word)
    return ordinary


def _spelled(store: ItemStore, index: TitleIndex) -> Array:
    """Whether each word of a keyword occurs in titles or several searches, so that it is no typing error."""
    parts = [stems(text) for text in store.keywords]
    searched = Counter(part for found in parts for part in found)
    known = {
        part for part, count in searched.items() if count >= _WELL_KNOWN or len(index.match(frozenset([part]))) >= 2
    }
    return np.array([found <= known for found in parts], bool)


def _keyword_topics(store: ItemStore, index: TitleIndex, of_product: Array) -> tuple[Array, Array]:
    """Find the topic of each keyword, -1 if mixed, and its worth as a concept of that topic.

    A keyword whose words occur in titles is about the topic of those products, and names them. Another keyword ("summer
    barbecue") is about the topic of its best products, but names none: its worth is 0.
    """
    topic = np.full(len(store.keywords), -1, np.int32)
    worth = np.zeros(len(store.keywords), np.float32)
    searched = np.log1p(store.keyword_counts.astype(np.float32)) + 1.0
    for row, text in enumerate(store.keywords):
        named = of_product[index.match(stems(text))]
        if len(named) >= 2:
            topic[row], share, count = _majority(named)
            if share >= _NAMED_AGREEMENT:
                worth[row] = searched[row] * np.sqrt(count)
                continue
        best = store.keyword_products[row, :_BEST_PRODUCTS]
        topic[row], share, _ = _majority(of_product[best[best >= 0]])
        if share < _KEYWORD_AGREEMENT:
            topic[row] = -1
    return topic, worth


def _majority(topics: Array) -> tuple[int, float, int]:
    known = topics[topics >= 0]
    if not len(known):
        return -1, 0.0, 0
    counts = np.bincount(known)
    top = int(counts.argmax())
    return top, counts[top] / len(topics), int(counts[top])


def _concepts(store: ItemStore, of_keyword: Array, worth: Array, count: int) -> list[tuple[str, ...]]:
    """Collect shoppers' names of a topic's products: the keywords that name most of them, with distinct words."""
    chosen: list[dict[frozenset[str], str]] = [{} for _ in range(count)]
    for row in np.argsort(-worth, kind="stable").tolist():
        if worth[row] <= 0:
            break
        topic = int(of_keyword[row])
        if topic >= 0 and len(chosen[topic]) < _CONCEPTS:
            text = store.keywords[row]
            chosen[topic].setdefault(stems(text), text)
    return [tuple(texts.values()) for texts in chosen]


def plural_forms(store: ItemStore) -> dict[str, str]:
    """Plural of each word that the catalogue's own titles and keywords use in the plural: "fan" -> "fans".

    A word that occurs only in the singular ("milk") has none, so that a title can say "fans" and "milk".
    """
    counts: Counter[str] = Counter()
    for texts in (store.titles, store.keywords):
        for text in texts:
            counts.update(set(words(text)))
    plurals = {}
    for word, count in counts.items():
        for plural in (f"{word}s", f"{word}es", f"{word[:-1]}ies" if word.endswith("y") else ""):
            if word.isalpha() and not word.endswith("s") and counts[plural] >= max(2, _PLURALS * count):
                plurals[word] = plural
                break
    return plurals
