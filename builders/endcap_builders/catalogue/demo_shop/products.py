"""Makes the products of the demo shop: combinations of brand, attributes and size, with titles, texts and prices."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from endcap_builders.catalogue.demo_shop.words import Line, ShopWords

NONE = -1


@dataclass(frozen=True)
class DemoProducts:
    """The products with hidden variables; all arrays have one entry per product, in the order of the ids.

    Attributes:
        line, brand: int64 numbers into ``Words.lines`` and ``Words.brands``.
        attributes: int64 [n, 3] numbers of extra, variety and color into ``vocabulary`` (-1: none).
        size: float64, place of the size among its line's sizes, 0 smallest to 1 largest.
        appeal: float64, general popularity, about N(0, 0.6).
        level: float64, price level 0..1 within the line, whatever the size.
        price: float32.
    """

    ids: list[str]
    titles: list[str]
    descriptions: list[str]
    sizes: list[str]
    line: npt.NDArray[np.int64]
    brand: npt.NDArray[np.int64]
    attributes: npt.NDArray[np.int64]
    size: npt.NDArray[np.float64]
    appeal: npt.NDArray[np.float64]
    level: npt.NDArray[np.float64]
    price: npt.NDArray[np.float32]
    in_stock: npt.NDArray[np.bool_]
    vocabulary: tuple[str, ...]


def make_products(words: ShopWords, count: int, rng: np.random.Generator) -> DemoProducts:
    """``count`` products with distinct titles, spread as evenly over the lines as their combinations allow.

    Raises:
        ValueError: if ``count`` is below one product a line or above the number of combinations.
    """
    vocabulary = sorted({word for line in words.lines for word in line.extras + line.varieties + line.colors})
    number = {word: index for index, word in enumerate(vocabulary)}
    combinations = [_combinations(words, line) for line in words.lines]
    shares = _spread(count, [len(usable) for usable, _ in combinations])
    rows: list[tuple[int, int, str, str, str, float, str]] = []
    for index, (line, (usable, weight)) in enumerate(zip(words.lines, combinations, strict=True)):
        for code in rng.choice(usable, size=shares[index], replace=False, p=weight / weight.sum()):
            brand, extra, variety, color, size = np.unravel_index(code, _shape(words, line))
            place = float(size) / max(len(line.sizes) - 1, 1)
            rows.append(
                (
                    index,
                    words.leaves[line.leaf].brands[brand],
                    ("", *line.extras)[extra],
                    (line.varieties or ("",))[variety],
                    (line.colors or ("",))[color],
                    place if len(line.sizes) > 1 else 0.5,
                    (line.sizes or ("",))[size],
                )
            )
    # In a real catalogue, neighbouring rows are unrelated.
    rows = [rows[row] for row in rng.permutation(count)]
    line_of = np.array([row[0] for row in rows])
    brand_of = np.array([row[1] for row in rows])
    size_of = np.array([row[5] for row in rows])
    tier = (np.array(words.tiers)[brand_of] - 1) / 2
    extra_of = np.array([row[2] != "" for row in rows])
    level = np.clip(0.7 * tier + 0.2 * extra_of + rng.normal(0.05, 0.1, count), 0, 1)
    price = _price(words, line_of, 0.65 * size_of + 0.35 * level)
    return DemoProducts(
        ids=[f"{words.leaves[words.lines[row[0]].leaf].code}-{10000 + 3 * index}" for index, row in enumerate(rows)],
        titles=[_title(words, *row[:5], row[6]) for row in rows],
        descriptions=[_description(words, *row[:4], rng) for row in rows],
        sizes=[row[6] for row in rows],
        line=line_of,
        brand=brand_of,
        attributes=np.array([[number.get(word, NONE) for word in row[2:5]] for row in rows]),
        size=size_of,
        appeal=rng.normal(0, 0.6, count),
        level=level,
        price=price,
        in_stock=rng.random(count) < 0.96,
        vocabulary=tuple(vocabulary),
    )


def _shape(words: ShopWords, line: Line) -> tuple[int, int, int, int, int]:
    """Numbers of brands, extras (including none), varieties, colors and sizes of a line."""
    brands = len(words.leaves[line.leaf].brands)
    return brands, 1 + len(line.extras), max(len(line.varieties), 1), max(len(line.colors), 1), max(len(line.sizes), 1)


def _combinations(words: ShopWords, line: Line) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Codes (into ``_shape``) of the line's sensible combinations, and their probabilities."""
    shape = _shape(words, line)
    codes = np.arange(int(np.prod(shape)))
    brand, extra, variety, _, _ = np.unravel_index(codes, shape)
    # No "Cotton Cotton".
    names = [set(words.brands[number].split()) for number in words.leaves[line.leaf].brands]
    extras = [set(text.split()) for text in ("", *line.extras)]
    varieties = [set(text.split()) for text in line.varieties or ("",)]
    noun = set(line.noun.split())
    clash = np.array(
        [[[bool(n & (e | v) or e & (v | noun)) for v in varieties] for e in extras] for n in names], dtype=bool
    )
    usable = ~clash[brand, extra, variety]
    weight = np.where(extra == 0, max(len(line.extras), 1), 1.0)
    return codes[usable], weight[usable]


def _spread(count: int, room: list[int]) -> list[int]:
    """Splits ``count`` over lines with at most ``room`` each, as evenly as possible."""
    if not len(room) <= count <= sum(room):
        raise ValueError(f"products: expected {len(room)} to {sum(room)}, got {count}; choose a number between them")
    shares = [0] * len(room)
    left = count
    # Lines with little room first; the others share the rest.
    for done, index in enumerate(sorted(range(len(room)), key=room.__getitem__)):
        shares[index] = min(room[index], left // (len(room) - done))
        left -= shares[index]
    return shares


def _title(words: ShopWords, line: int, brand: int, extra: str, variety: str, color: str, size: str) -> str:
    kind = words.lines[line]
    order = (extra, kind.noun, variety) if kind.variety_last else (extra, variety, kind.noun)
    name = " ".join(part for part in (words.brands[brand], *order) if part)
    return ", ".join(part for part in (name, color, size) if part)


def _description(words: ShopWords, line: int, brand: int, extra: str, variety: str, rng: np.random.Generator) -> str:
    """One or two sentences: what the product is, its attributes, and its use."""
    kind = words.lines[line]
    leaf = words.leaves[kind.leaf]

    def one_of(says: tuple[str, ...]) -> str:
        return says[int(rng.integers(len(says)))]

    promises = [says for word, says in words.promises.items() if word in f"{extra}|{variety}".split("|")]
    occasion = one_of(words.missions[int(rng.choice(kind.missions))].says)
    synonym = one_of(kind.queries)
    about = " ".join(word.lower() for word in (extra, "" if kind.variety_last else variety) if word)
    name = f"{about} {synonym}".strip()
    opener = f"{name[0].upper()}{name[1:]} from {words.brands[brand]}."
    first = one_of(promises[-1]) if promises and rng.random() < 0.7 else one_of(leaf.says)
    pattern = rng.random()
    if pattern < 0.45:
        return f"{first} {occasion}"
    if pattern < 0.75:
        return f"{opener} {occasion}"
    if pattern < 0.9:
        return f"{opener} {first}"
    return first


def _price(words: ShopWords, line: npt.NDArray[np.int64], place: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Prices between the line's bounds, geometrically distributed, with typical endings."""
    bounds = np.array([kind.price for kind in words.lines])[line]
    price = bounds[:, 0] * (bounds[:, 1] / bounds[:, 0]) ** np.clip(place, 0, 1)
    small = np.round(price, 1) - 0.01
    middle = np.round(price * 2) / 2 - 0.01
    large = np.round(price) - 0.01
    return np.where(price < 10, small, np.where(price < 40, middle, large)).astype(np.float32)
