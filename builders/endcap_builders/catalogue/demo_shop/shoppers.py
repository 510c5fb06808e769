"""Generates the shoppers of the demo shop, and their views, carts and purchases in a year."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from endcap_builders.catalogue.demo_shop.products import NONE, DemoProducts
from endcap_builders.catalogue.demo_shop.words import ShopWords

YEAR_START = np.datetime64("2025-11-01", "us")
DAYS = 365
MEAN_TRIPS = 5.1
EVENT_NAMES = ("view", "cart", "purchase")


@dataclass(frozen=True)
class Shoppers:
    """Latent tastes; all arrays have one row a shopper.

    Attributes:
        missions: float64 [shoppers, missions + leaves] probability of a trip for a mission, or for restocking in a
            leaf.
        lines: float64 [shoppers, lines] utility of a line of products.
        brands: float64 [shoppers, brands], attributes: float64 [shoppers, vocabulary] utilities of a product's parts.
        level: float64 [shoppers] preferred price level, size: float64 [shoppers] preferred package size, both 0..1.
    """

    missions: npt.NDArray[np.float64]
    lines: npt.NDArray[np.float64]
    brands: npt.NDArray[np.float64]
    attributes: npt.NDArray[np.float64]
    level: npt.NDArray[np.float64]
    size: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.level)


@dataclass(frozen=True)
class Picks:
    """Choices of shoppers: one entry for each product of interest on a trip.

    Attributes:
        trip: int64 number of the trip, ascending.
        shopper, mission, line, product: int64; missions from ``len(Words.missions)`` on are restocking in a leaf.
        other: int64 the shopper's second choice in the line (equal to ``product`` if there is none).
    """

    trip: npt.NDArray[np.int64]
    shopper: npt.NDArray[np.int64]
    mission: npt.NDArray[np.int64]
    line: npt.NDArray[np.int64]
    product: npt.NDArray[np.int64]
    other: npt.NDArray[np.int64]


def make_shoppers(words: ShopWords, products: DemoProducts, count: int, rng: np.random.Generator) -> Shoppers:
    """``count`` shoppers: a household each, with traits, a diet, favorite brands, a price level and quirks."""
    shares = np.array([household["share"] for household in words.households.values()])
    household = rng.choice(len(shares), size=count, p=shares / shares.sum())
    chance = np.array([[kind["traits"].get(t, 0.0) for t in words.traits] for kind in words.households.values()])
    traits = rng.random((count, len(words.traits))) < chance[household]

    def wants(who: tuple[str, ...]) -> npt.NDArray[np.bool_]:
        return np.any(traits[:, [words.traits.index(trait) for trait in who]], axis=1)

    missions = np.zeros((count, len(words.missions) + len(words.leaves)))
    for index, mission in enumerate(words.missions):
        missions[:, index] = mission.weight * (np.where(wants(mission.who), 1.6, 0.06) if mission.who else 0.8)
    for index, leaf in enumerate(words.leaves, start=len(words.missions)):
        missions[:, index] = np.where(wants(leaf.who), 2.0, 0.15) if leaf.who else 0.02 if leaf.seasonal else 0.7
    # A shopper has a few strong habits.
    missions *= rng.gamma(0.6, 1 / 0.6, missions.shape)

    diet_shares = np.array([diet["share"] for diet in words.diets.values()])
    diet = rng.choice(len(diet_shares), size=count, p=diet_shares / diet_shares.sum())
    word_taste = np.array([[_taste(word, d["words"]) for word in products.vocabulary] for d in words.diets.values()])
    noun_taste = np.array([[_taste(line.noun, d["words"]) for line in words.lines] for d in words.diets.values()])
    brands = rng.normal(0, 0.6, (count, len(words.brands)))
    favorites = rng.random(brands.shape) < 0.08
    sizes = np.array([kind["size"] for kind in words.households.values()])
    return Shoppers(
        missions=missions,
        lines=noun_taste[diet] + rng.normal(0, 0.5, (count, len(words.lines))),
        brands=brands + 1.6 * favorites,
        attributes=word_taste[diet] + rng.normal(0, 0.6, (count, len(products.vocabulary))),
        level=rng.beta(1.6, 1.8, count),
        size=np.clip(sizes[household] + rng.normal(0, 0.15, count), 0, 1),
    )


def _taste(text: str, tastes: dict[str, float]) -> float:
    return sum(value for word, value in tastes.items() if word in text.split())


def make_picks(
    words: ShopWords,
    products: DemoProducts,
    shoppers: Shoppers,
    shopper: npt.NDArray[np.int64],
    month: npt.NDArray[np.int64],
    size: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> Picks:
    """Choices on trips by ``shopper`` [trips], in ``month`` [trips] (0..11), of up to ``size`` [trips] lines."""
    season = np.array([*(mission.season for mission in words.missions), *([1.0] * 12 for _ in words.leaves)])
    odds = shoppers.missions[shopper] * season[:, month].T
    mission = _choose(np.log(odds + 1e-12), rng)
    big = np.array([*(kind.big for kind in words.missions), *(False for _ in words.leaves)])
    size = size + np.where(big[mission], 2, 0)
    trips, missions, lines = [], [], []
    for index in range(season.shape[0]):
        if index < len(words.missions):
            members = np.array([k for k, line in enumerate(words.lines) if index in line.missions])
        else:
            members = np.array([k for k, line in enumerate(words.lines) if line.leaf == index - len(words.missions)])
        here = np.flatnonzero(mission == index)
        utility = shoppers.lines[np.ix_(shopper[here], members)] + rng.gumbel(size=(len(here), len(members)))
        rank = np.argsort(np.argsort(-utility, axis=1), axis=1)
        row, column = np.nonzero(rank < size[here][:, None])
        trips.append(here[row])
        missions.append(np.full(len(row), index))
        lines.append(members[column])
    trip, mission_of, line = (np.concatenate(parts) for parts in (trips, missions, lines))
    order = np.argsort(trip, kind="stable")
    trip, mission_of, line = trip[order], mission_of[order], line[order]
    product, other = _choose_products(products, shoppers, shopper[trip], line, rng)
    return Picks(trip, shopper[trip], mission_of, line, product, other)


def _choose(utility: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """One column for each row, with probability softmax(utility)."""
    return np.argmax(utility + rng.gumbel(size=utility.shape), axis=1)


def _choose_products(
    products: DemoProducts,
    shoppers: Shoppers,
    shopper: npt.NDArray[np.int64],
    line: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and second choice of each shopper [picks] among the products of ``line`` [picks]."""
    first = np.empty(len(line), dtype=np.int64)
    second = np.empty(len(line), dtype=np.int64)
    # The last column is "no attribute", with utility 0.
    attribute_taste = np.pad(shoppers.attributes, ((0, 0), (0, 1)))
    for index in np.unique(line):
        members = np.flatnonzero(products.line == index)
        here = np.flatnonzero(line == index)
        who = shopper[here]
        utility = shoppers.brands[np.ix_(who, products.brand[members])] + products.appeal[members]
        for kind in range(products.attributes.shape[1]):
            attribute = products.attributes[members, kind]
            utility += attribute_taste[
                who[:, None], np.where(attribute == NONE, attribute_taste.shape[1] - 1, attribute)
            ]
        utility -= 2.0 * np.abs(products.level[members] - shoppers.level[who][:, None])
        utility -= 1.0 * np.abs(products.size[members] - shoppers.size[who][:, None])
        order = np.argsort(-(utility + 0.7 * rng.gumbel(size=utility.shape)), axis=1)
        first[here] = members[order[:, 0]]
        second[here] = members[order[:, min(1, len(members) - 1)]]
    return first, second


def make_events(
    words: ShopWords, products: DemoProducts, shoppers: Shoppers, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.datetime64], npt.NDArray[np.int64]]:
    """A year of events: shopper and product int64, timestamp datetime64[us], type int64 into ``EVENT_NAMES``."""
    trips_of = 1 + rng.negative_binomial(4, 4 / (4 + MEAN_TRIPS - 1), len(shoppers))
    shopper = np.repeat(np.arange(len(shoppers)), trips_of)
    day = rng.integers(0, DAYS, len(shopper))
    # Lunch breaks and evenings.
    hour = np.where(
        rng.random(len(shopper)) < 0.35, rng.normal(12.3, 1.2, len(shopper)), rng.normal(19.2, 1.9, len(shopper))
    )
    start = YEAR_START + (day * 86_400_000_000 + np.clip(hour, 6, 22.9) * 3_600_000_000).astype("timedelta64[us]")
    month = start.astype("datetime64[M]").astype(np.int64) % 12
    picks = make_picks(words, products, shoppers, shopper, month, 3 + rng.poisson(1.0, len(shopper)), rng)

    count = len(picks.trip)
    bought = rng.random(count) < 0.62
    viewed = (rng.random(count) < 0.4) | ~bought
    carted = rng.random(count) < np.where(bought, 0.3, 0.15)
    compared = (rng.random(count) < 0.15) & (picks.other != picks.product)
    # Seconds since the start of the trip: products one after another, and one check-out at the end.
    place = np.arange(count) - np.searchsorted(picks.trip, picks.trip)
    seconds = 20 + 75 * place + rng.integers(0, 40, count)
    rows = np.arange(count)
    parts = [
        (rows[compared], picks.other[compared], seconds[compared] - 15, 0),
        (rows[viewed], picks.product[viewed], seconds[viewed], 0),
        (rows[carted], picks.product[carted], seconds[carted] + 12, 1),
        (rows[bought], picks.product[bought], np.full(int(bought.sum()), 900), 2),
    ]
    row = np.concatenate([part[0] for part in parts])
    product = np.concatenate([part[1] for part in parts])
    second = np.concatenate([part[2] for part in parts])
    kind = np.concatenate([np.full(len(part[0]), part[3]) for part in parts])
    timestamp = start[picks.trip[row]] + second.astype("timedelta64[s]")
    order = np.lexsort((kind, timestamp, picks.shopper[row]))
    return picks.shopper[row][order], product[order], timestamp[order], kind[order]
