"""Generates the search log of the demo shop, and the intent of each search."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from endcap_builders.catalogue.demo_shop.products import DemoProducts
from endcap_builders.catalogue.demo_shop.shoppers import Shoppers, make_picks
from endcap_builders.catalogue.demo_shop.words import ShopWords

# Forms of searches, and their frequencies: noun ("oats"), attribute + noun, two attributes + noun, brand + noun,
# noun + size, noun + occasion, occasion alone, category words, brand alone.
FORMS = {
    "noun": 0.33,
    "attribute": 0.24,
    "attributes": 0.06,
    "brand_noun": 0.1,
    "size": 0.03,
    "noun_occasion": 0.03,
    "occasion": 0.11,
    "category": 0.08,
    "brand": 0.02,
}
TYPO_SHARE = 0.03


@dataclass(frozen=True)
class Intent:
    """The intent of a search: a line of products (with attributes, size or brand), a leaf or a part of it, a mission,
    or a brand.
    """

    line: int = -1
    attributes: tuple[int, ...] = ()
    size: str = ""
    brand: int = -1
    leaf: int = -1
    part: tuple[int, ...] = ()
    mission: int = -1


def make_searches(
    words: ShopWords, products: DemoProducts, shoppers: Shoppers, count: int, rng: np.random.Generator
) -> tuple[dict[str, int], dict[str, Intent]]:
    """``count`` searches by the shoppers: the count and the intent of each text."""
    who = rng.integers(0, len(shoppers), count)
    month = rng.integers(0, 12, count)
    picks = make_picks(words, products, shoppers, who, month, np.ones(count, dtype=np.int64), rng)
    # Missions with large carts have more picks than searches.
    chosen = np.unique(picks.trip, return_index=True)[1]
    forms = rng.choice(list(FORMS), size=count, p=np.array(list(FORMS.values())) / sum(FORMS.values()))
    typo = rng.random(count) < TYPO_SHARE
    counts: dict[str, int] = {}
    intents: dict[str, Intent] = {}
    for form, mistyped, pick in zip(forms, typo, chosen, strict=True):
        text, intent = _search(words, products, str(form), int(picks.product[pick]), int(picks.mission[pick]), rng)
        if mistyped:
            text = _typo(text, rng)
        counts[text] = counts.get(text, 0) + 1
        # Two intents can share a text; the first one is used.
        intents.setdefault(text, intent)
    return counts, intents


def _search(
    words: ShopWords, products: DemoProducts, form: str, product: int, mission: int, rng: np.random.Generator
) -> tuple[str, Intent]:
    """The text of one search of the given form for ``product``, and its intent."""
    line_number = int(products.line[product])
    line = words.lines[line_number]
    leaf = words.leaves[line.leaf]
    brand = int(products.brand[product])
    known_mission = mission < len(words.missions)

    def one_of(texts: tuple[str, ...]) -> str:
        # The first wording is the usual one.
        return texts[0] if rng.random() < 0.5 else texts[int(rng.integers(len(texts)))]

    if form == "occasion" and known_mission:
        return one_of(words.missions[mission].queries), Intent(mission=mission)
    if form == "category":
        parts = [text for text, lines in leaf.parts.items() if line_number in lines]
        text = one_of((*parts, *leaf.words))
        return text, Intent(leaf=line.leaf, part=leaf.parts.get(text, ()))
    if form == "brand":
        return words.brands[brand].lower(), Intent(brand=brand)
    noun = one_of(line.queries)
    if rng.random() < 0.15:
        noun = _other_number(noun, leaf.countable)
    if form == "brand_noun":
        return f"{words.brands[brand].lower()} {noun}", Intent(line_number, brand=brand)
    if form == "size" and products.sizes[product]:
        size = products.sizes[product]
        return f"{noun} {size.lower()}", Intent(line_number, size=size)
    if form == "noun_occasion" and known_mission:
        return f"{noun} for {words.missions[mission].name.lower()}", Intent(line_number)
    if form in ("attribute", "attributes"):
        attributes = [int(attribute) for attribute in products.attributes[product] if attribute >= 0]
        if attributes:
            wanted = 1 if form == "attribute" else 2
            chosen = sorted(rng.permutation(len(attributes))[:wanted])
            names = [products.vocabulary[attributes[index]] for index in chosen]
            last = names and line.variety_last and names[-1] in line.varieties
            text = f"{noun} {names[-1]}" if last else f"{' '.join(names)} {noun}"
            return text.lower(), Intent(line_number, tuple(attributes[index] for index in chosen))
    return noun, Intent(line_number)


def _other_number(noun: str, countable: bool) -> str:
    """The plural of a singular noun, or the singular of a plural one."""
    if noun.endswith("ies") and len(noun) > 5:
        return noun[:-3] + "y"
    if noun.endswith("s") and not noun.endswith(("ss", "us")):
        return noun[:-1]
    if not countable:
        return noun
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def _typo(text: str, rng: np.random.Generator) -> str:
    """Swaps, drops or doubles a letter inside the text's longest word."""
    word = max(text.split(), key=len)
    if len(word) < 5:
        return text
    at = int(rng.integers(1, len(word) - 2))
    wrong = (
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
    )[int(rng.integers(3))]
    return text.replace(word, wrong, 1)


class Grader:
    """Grades products for an intent by hidden variables: 3 exact, 2 substitute, 1 related, 0 unrelated."""

    def __init__(self, words: ShopWords, products: DemoProducts):
        self._products = products
        self._sizes = np.array(products.sizes)
        self._leaf_of_line = np.array([line.leaf for line in words.lines])
        self._leaf = self._leaf_of_line[products.line]
        shelves = [leaf.path.rsplit(" > ", 1)[0] for leaf in words.leaves]
        self._shelf_of_leaf = np.array([shelves.index(shelf) for shelf in shelves])
        # Rank of a mission among those of a line; a line is mostly bought for its first two.
        self._rank = np.full((len(words.lines), len(words.missions)), 99)
        for index, line in enumerate(words.lines):
            for rank, mission in enumerate(line.missions):
                self._rank[index, mission] = rank
        # Lines of the same mission are related, except for missions that everyone has every week.
        self._main_mission = np.array(
            [line.missions[0] if words.missions[line.missions[0]].who else -1 - k for k, line in enumerate(words.lines)]
        )

    def grades(self, intent: Intent) -> npt.NDArray[np.int64]:
        """Grade of every product for ``intent``, int64 [products]."""
        if intent.mission >= 0:
            rank = self._rank[self._products.line, intent.mission]
            leaves = self._leaf_of_line[self._rank[:, intent.mission] < 2]
            return np.where(rank < 2, 3, np.where(rank < 99, 2, np.where(np.isin(self._leaf, leaves), 1, 0)))
        if intent.leaf >= 0:
            same_shelf = self._shelf_of_leaf[self._leaf] == self._shelf_of_leaf[intent.leaf]
            if intent.part:
                exact = np.isin(self._products.line, intent.part)
                return np.where(exact, 3, np.where(self._leaf == intent.leaf, 1, 0))
            return np.where(self._leaf == intent.leaf, 3, np.where(same_shelf, 1, 0))
        has_brand = self._products.brand == intent.brand
        if intent.line < 0:
            return np.where(has_brand, 3, 0)
        exact = has_brand if intent.brand >= 0 else np.ones(len(self._sizes), dtype=bool)
        for attribute in intent.attributes:
            exact = exact & (self._products.attributes == attribute).any(axis=1)
        if intent.size:
            exact = exact & (self._sizes == intent.size)
        related = (self._leaf == self._leaf_of_line[intent.line]) | (
            self._main_mission[self._products.line] == self._main_mission[intent.line]
        )
        return np.where(self._products.line == intent.line, np.where(exact, 3, 2), np.where(related, 1, 0))


# Products of each grade in the judgements of a query.
JUDGED = {3: 4, 2: 3, 1: 2, 0: 3}


def make_judgements(
    words: ShopWords,
    products: DemoProducts,
    counts: dict[str, int],
    intents: dict[str, Intent],
    queries: int,
    rng: np.random.Generator,
) -> tuple[list[str], list[int], list[int]]:
    """Judgements of about 12 products for each of ``queries`` searches: query texts, product numbers, grades 0..3.

    Half of the unrelated products are from the searched line's department, so that not all are easy.
    """
    grader = Grader(words, products)
    departments = np.array([leaf.code for leaf in words.leaves])[[line.leaf for line in words.lines]][products.line]
    texts = sorted(counts)
    odds = np.sqrt([counts[text] for text in texts])
    judged = rng.choice(len(texts), size=min(queries, len(texts)), replace=False, p=odds / odds.sum())
    query_of: list[str] = []
    product_of: list[int] = []
    grade_of: list[int] = []
    for index in sorted(judged):
        grades = grader.grades(intents[texts[index]])
        near = departments == departments[int(np.argmax(grades))]
        left = sum(JUDGED.values())
        for grade, share in JUDGED.items():
            pool = rng.permutation(np.flatnonzero(grades == grade))
            if grade == 0:
                # Unrelated products replace missing ones of other grades.
                close, far = pool[near[pool]], pool[~near[pool]]
                half = min((left + 1) // 2, len(close))
                chosen = np.concatenate([close[:half], far[: left - half]])
            else:
                chosen = pool[:share]
            left -= len(chosen)
            query_of += [texts[index]] * len(chosen)
            product_of += chosen.tolist()
            grade_of += [grade] * len(chosen)
    return query_of, product_of, grade_of
