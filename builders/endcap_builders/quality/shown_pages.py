"""Pages of a server: do the products fit their themes, are the pages coherent and varied, do they keep the rules?"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from endcap_client import Client, EndcapError, Rules
from endcap_server.shop.store import ItemStore
from endcap_server.stages.documents import PlacementSource

from endcap_builders.catalogue import Catalogue
from endcap_builders.evaluation.asking import MAX_HISTORY, ShownPage
from endcap_builders.evaluation.queries import EvaluationError
from endcap_builders.intervals import bootstrap
from endcap_builders.quality.judges import FitJudge, Grade, ThemeProduct
from endcap_builders.quality.labelling import Question, read_labels
from endcap_builders.quality.prediction_powered import Judged
from endcap_builders.quality.rates import wilson
from endcap_builders.step import BuildContext

FIRST = 5
"""Products of a placement that P-T@5 looks at."""
SWAPPED = "with others' products"
QUESTIONS = "placements.jsonl"
_LEAST_EVENTS, _MADE_UP = 5, 6
_MOST_OF_A_BRAND = 2


@dataclass(frozen=True)
class PageRequests:
    """What is asked for.

    Attributes:
        count: shoppers.
        placements: of a page.
        products: of a placement.
        seed: of the draws.
    """

    count: int
    placements: int
    products: int
    seed: int


@dataclass(frozen=True)
class Asked:
    """The pages of shoppers, without rules and with some.

    Attributes:
        plain: a page for each shopper.
        ruled: the page of the same shopper under `rules`.
        rules: of each shopper.
    """

    plain: list[ShownPage]
    ruled: list[ShownPage]
    rules: list[Rules]


def histories(catalogue: Catalogue, count: int, seed: int) -> list[list[str]]:
    """Histories of shoppers with at least a few events, drawn at random; of products at random without events."""
    rng = random.Random(seed)
    if catalogue.events is None or catalogue.events.is_empty():
        products = catalogue.products.filter("in_stock")["product_id"].to_list()
        return [rng.sample(products, min(_MADE_UP, len(products))) for _ in range(count)]
    ordered = catalogue.events.sort("timestamp", maintain_order=True)
    grouped = ordered.group_by("user_id", maintain_order=True).agg("product_id")
    known = grouped.filter(pl.col("product_id").list.len() >= _LEAST_EVENTS).sort("user_id")["product_id"].to_list()
    return [list(each[-MAX_HISTORY:]) for each in rng.sample(known, min(count, len(known)))]


def ask_pages(ctx: BuildContext, client: Client, requests: PageRequests) -> Asked:
    """Request the pages.

    Raises:
        EvaluationError: the server does not answer, or nobody has a history.
    """
    asked = histories(ctx.catalogue, requests.count, requests.seed)
    if not asked:
        raise EvaluationError(f"{ctx.catalogue_folder}: expected shoppers with {_LEAST_EVENTS} events, got none")
    brand_of = dict(ctx.catalogue.products.select("product_id", "brand").iter_rows())
    in_stock = ctx.catalogue.products.filter("in_stock")["product_id"].to_list()
    rng = random.Random(requests.seed + 1)
    found = Asked([], [], [])
    for history in ctx.track(asked, "pages", len(asked)):
        plain = _page(client, history, requests, None)
        rules = _drawn_rules(plain, brand_of, in_stock, rng)
        found.plain.append(plain)
        found.ruled.append(_page(client, history, requests, rules))
        found.rules.append(rules)
    return found


def _page(client: Client, history: Sequence[str], requests: PageRequests, rules: Rules | None) -> ShownPage:
    try:
        return ShownPage.of(
            client.storefront(history, rules=rules, placements=requests.placements, products=requests.products)
        )
    except EndcapError as error:
        raise EvaluationError(f"a page of {len(history)} products of history: {error}") from error


def _drawn_rules(page: ShownPage, brand_of: Mapping[str, str], in_stock: Sequence[str], rng: random.Random) -> Rules:
    """Rules that the page without rules does not keep by itself: two pins, a title, a brand of the page left out."""
    shown = set(page.products)
    brands = sorted({brand for each in page.products if (brand := brand_of.get(each, ""))})
    banned = rng.choice(brands) if brands else ""
    free = [each for each in rng.sample(in_stock, min(40, len(in_stock))) if each not in shown]
    return Rules(
        pin=tuple([each for each in free if brand_of.get(each, "") != banned or not banned][:2]),
        exclude_brands=(banned,) if banned else (),
        max_per_brand=_MOST_OF_A_BRAND,
        required_themes=("This week at our place",),
    )


def page_figures(
    ctx: BuildContext, store: ItemStore, asked: Asked, judge: FitJudge, labels: Path | None, folder: Path, seed: int
) -> dict[str, Any]:
    """P-T@5 by source of the placements, cohesion, diversity, and targets of rules; docs/quality.md defines each.

    Args:
        ctx: of the build.
        store: its products.
        asked: the pages.
        judge: judges whether products fit.
        labels: file of people's labels; None: none.
        folder: takes the products in question, for labelling.
        seed: of the draws.

    Raises:
        EvaluationError: no page has a placement, or the file of labels holds something else.
    """
    placements = [
        (number, placement.source, placement.title, placement.products[:FIRST])
        for number, page in enumerate(asked.plain)
        for placement in page.placements
        if placement.products
    ]
    if not placements:
        raise EvaluationError("expected pages with placements, got none; look at the server's log")
    generated = [each for each in placements if each[1] in (PlacementSource.GENERATED, PlacementSource.PREPARED)]
    groups = {PlacementSource.GENERATED.value: generated}
    groups[PlacementSource.CATEGORY.value] = [each for each in placements if each[1] == PlacementSource.CATEGORY]
    groups[SWAPPED] = _swapped(generated, random.Random(seed))
    people = read_labels(labels) if labels else {}
    found = {}
    for name, each in groups.items():
        cases = [(place, ThemeProduct(title, product)) for place, (_, _, title, products) in enumerate(each)
                 for product in products]  # fmt: skip
        grades = judge.grades([case for _, case in cases]) if cases else []
        known = [people.get((case.theme, case.product_id), float("nan")) for _, case in cases]
        # Nobody was asked about swapped ones: they show whether the judge can tell.
        known = [float("nan")] * len(known) if name == SWAPPED else known
        values = np.array([grade.value for grade in grades])
        answered = ~np.isnan(values)
        places = np.array([place for place, _ in cases], int)
        judged = Judged(values[answered], np.array(known)[answered], places[answered])
        found[name] = {
            "placements": len(each),
            "unanswered": int((~answered).sum()),
            **judged.estimates(seed),
            "misfits": _misfits(cases, grades),
        }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / QUESTIONS).open("w", encoding="utf-8") as file:
        for question in _questions(ctx.catalogue, generated):
            file.write(json.dumps(asdict(question), ensure_ascii=False) + "\n")
    return {
        "pages": len(asked.plain),
        "judge": judge.name,
        "cost": round(judge.cost, 4),
        "p_t_5": found,
        "cohesion": _cohesion(store, asked.plain, seed),
        "diversity": _diversity(store, asked.plain, seed),
        "targets": _targets(ctx.catalogue, asked),
    }


def read_questions(path: Path) -> list[Question]:
    """The products in question that an evaluation wrote.

    Raises:
        EvaluationError: there is no such file.
    """
    if not path.exists():
        raise EvaluationError(f"{path}: expected the placements of an evaluation, got none; run --part pages first")
    return [Question(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _misfits(cases: Sequence[tuple[int, ThemeProduct]], grades: Sequence[Grade]) -> list[dict[str, Any]]:
    """What fits worst, for reports."""
    order = sorted((n for n in range(len(cases)) if not np.isnan(grades[n].value)), key=lambda n: grades[n].value)
    return [{**asdict(cases[n][1]), "value": round(grades[n].value, 3), "reason": grades[n].reason} for n in order[:5]]


def product_lines(catalogue: Catalogue) -> dict[str, str]:
    """Product id -> title, brand and category in one line."""
    columns = catalogue.products.select("product_id", "title", "brand", "category")
    return {
        product: " · ".join(filter(None, (title, brand, category)))
        for product, title, brand, category in columns.iter_rows()
    }


def _questions(catalogue: Catalogue, placements: Sequence[tuple[int, str, str, Sequence[str]]]) -> Iterator[Question]:
    told = product_lines(catalogue)
    for theme, product in dict.fromkeys((title, each) for _, _, title, products in placements for each in products):
        yield Question(theme, product, told.get(product, product))


def _swapped(placements: Sequence[tuple[int, str, str, Sequence[str]]], rng: random.Random) -> list[Any]:
    """Every title with the products of another page's placement."""
    order = list(range(len(placements)))
    rng.shuffle(order)
    return [
        (page, source, title, placements[other][3])
        for (page, source, title, products), other in zip(placements, order, strict=True)
        if placements[other][2] != title and not set(placements[other][3]) & set(products)
    ]


def _vectors(store: ItemStore, products: Sequence[str]) -> np.ndarray:
    rows = store.product_ids.find(list(products))
    return np.asarray(store.vectors[rows[rows >= 0]], np.float32)


def _likeness(vectors: np.ndarray) -> float:
    """Mean cosine of all pairs of unit vectors; NaN for fewer than two."""
    count = len(vectors)
    if count < 2:
        return float("nan")
    return float(((vectors.sum(axis=0) ** 2).sum() - count) / (count * (count - 1)))


def _mean(values: Sequence[float], seed: int) -> dict[str, Any]:
    known = np.array([value for value in values if not np.isnan(value)])
    if not len(known):
        return {"pages": 0}
    found = bootstrap(lambda rows: known[rows].mean(axis=1), len(known), seed)
    return {**found.document(), "pages": len(known)}


def _cohesion(store: ItemStore, pages: Sequence[ShownPage], seed: int) -> dict[str, Any]:
    """Likeness of the products of a placement, mean by page; and that of as many products of the whole page."""
    rng = np.random.default_rng(seed)
    own, mixed = [], []
    for page in pages:
        shown = [placement.products for placement in page.placements if len(placement.products) > 1]
        if not shown:
            continue
        own.append(float(np.nanmean([_likeness(_vectors(store, products)) for products in shown])))
        everything = list(page.products)
        drawn = rng.choice(len(everything), min(len(shown[0]), len(everything)), replace=False)
        mixed.append(_likeness(_vectors(store, [everything[place] for place in drawn])))
    return {"placements": _mean(own, seed), "whole page": _mean(mixed, seed)}


def _diversity(store: ItemStore, pages: Sequence[ShownPage], seed: int) -> dict[str, Any]:
    """1 - likeness of the placements' mean products by page, and the share of its products shown once."""
    apart, distinct = [], []
    for page in pages:
        middles = [
            _vectors(store, placement.products).mean(axis=0) for placement in page.placements if placement.products
        ]
        unit = np.array([middle / max(float(np.linalg.norm(middle)), 1e-6) for middle in middles])
        apart.append(1 - _likeness(unit) if len(unit) > 1 else float("nan"))
        distinct.append(len(set(page.products)) / max(len(page.products), 1))
    return {"placements": _mean(apart, seed), "distinct products": _mean(distinct, seed)}


def _targets(catalogue: Catalogue, asked: Asked) -> dict[str, Any]:
    """Share of the rules' targets that pages under the rules meet; and how many the same pages meet without them."""
    brand_of = dict(catalogue.products.select("product_id", "brand").iter_rows())
    found: dict[str, Any] = {}
    for name, pages in (("with the rules", asked.ruled), ("without them", asked.plain)):
        met: dict[str, list[bool]] = {}
        for page, rules in zip(pages, asked.rules, strict=True):
            for target, kept in _met(page, rules, brand_of):
                met.setdefault(target, []).append(kept)
        every = [kept for each in met.values() for kept in each]
        found[name] = {
            "all": wilson(sum(every), len(every)),
            **{target: wilson(sum(each), len(each)) for target, each in met.items()},
        }
    return found


def _met(page: ShownPage, rules: Rules, brand_of: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    first = page.placements[0].products if page.placements else ()
    for place, pin in enumerate(rules.pin):
        yield "pin in its place", first[place : place + 1] == (pin,)
    for title in rules.required_themes:
        yield "required theme", any(placement.title == title for placement in page.placements)
    for brand in rules.exclude_brands:
        yield "excluded brand", all(brand_of.get(product, "") != brand for product in page.products)
    if rules.max_per_brand:
        for placement in page.placements:
            brands = [brand for product in placement.products if (brand := brand_of.get(product, ""))]
            most = max((brands.count(brand) for brand in set(brands)), default=0)
            yield "most of a brand", most <= rules.max_per_brand
