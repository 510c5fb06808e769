"""Figures of pages: P-T@5 with few labels of people, cohesion, diversity, targets of rules."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from endcap_builders.catalogue import Catalogue
from endcap_builders.evaluation.asking import ShownPage, ShownPlacement
from endcap_builders.evaluation.queries import EvaluationError
from endcap_builders.quality.judges import Grade, ThemeProduct
from endcap_builders.quality.shown_pages import (
    QUESTIONS,
    SWAPPED,
    Asked,
    PageRequests,
    ask_pages,
    histories,
    page_figures,
    read_questions,
)
from endcap_builders.step import BuildContext, build_context
from endcap_client import Client, Rules
from endcap_server.shop.store import ItemStore
from rich.console import Console

from server import tiny_shop

KINDS = list(tiny_shop.CATEGORIES)


def products_of(kind: int, count: int) -> tuple[str, ...]:
    return tuple(f"p{8 * kind + number}" for number in range(count))


class Named:
    """A judge that knows the truth: the title is the kind."""

    name, cost = "named", 1.5

    def grades(self, cases: Sequence[ThemeProduct]) -> list[Grade]:
        return [Grade(float(case.theme == KINDS[int(case.product_id[1:]) // 8])) for case in cases]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[BuildContext, ItemStore]:
    build = tiny_shop.build_shop(tmp_path_factory.mktemp("shop"))
    store = ItemStore.open(build)
    ctx = build_context(build, build, build / ".work", Console(file=io.StringIO()))
    products = pl.DataFrame(
        {
            "product_id": list(store.product_ids),
            "title": list(store.titles),
            "brand": [store.brands[place] for place in store.brand.tolist()],
            "category": [store.categories[place] for place in store.category.tolist()],
            "in_stock": True,
        }
    )
    ctx._shared["catalogue"] = Catalogue(build, products, None, None, None, "digest")
    return ctx, store


def page(*placements: tuple[str, str, tuple[str, ...]]) -> ShownPage:
    return ShownPage(tuple(ShownPlacement(*each) for each in placements), {}, 1.0)


def good_pages() -> list[ShownPage]:
    """Pages of two generated placements of one kind each, and one of a category."""
    return [
        page(
            (KINDS[number % 4], "generated", products_of(number % 4, 6)),
            (KINDS[4 + number % 4], "generated", products_of(4 + number % 4, 6)),
            (KINDS[(number + 1) % 4], "category", products_of((number + 1) % 4, 6)),
        )
        for number in range(8)
    ]


def figures(shop: tuple[BuildContext, ItemStore], asked: Asked, folder: Path, labels: Path | None = None) -> dict:
    return page_figures(*shop, asked, Named(), labels, folder, seed=0)


def test_a_good_page_a_mixed_one_and_the_labels(shop: tuple[BuildContext, ItemStore], tmp_path: Path) -> None:
    good = good_pages()
    found = figures(shop, Asked(good, good, [Rules()] * len(good)), tmp_path)
    generated = found["p_t_5"]["generated"]
    assert generated["judge"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert (generated["placements"], generated["cases"], generated["labelled"]) == (16, 80, 0)
    assert found["p_t_5"]["category"]["placements"] == 8
    assert found["p_t_5"][SWAPPED]["judge"]["value"] == 0.0, "the judge can tell"
    assert (found["judge"], found["cost"]) == ("named", 1.5)
    questions = read_questions(tmp_path / QUESTIONS)
    assert len(questions) == 8 * 5
    assert "home > lamps" in questions[0].product
    labels = tmp_path / "labels.jsonl"
    rows = [
        {"theme": each.theme, "product_id": each.product_id, "fits": float(n % 4 > 0)}
        for n, each in enumerate(questions)
    ]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    labelled = figures(shop, Asked(good, good, [Rules()] * len(good)), tmp_path, labels)["p_t_5"]["generated"]
    assert labelled["labelled"] == 80
    assert labelled["both"]["value"] == pytest.approx(0.75, abs=0.01), "people say so, whatever the judge says"


def test_cohesion_and_diversity_fall_where_they_should(shop: tuple[BuildContext, ItemStore], tmp_path: Path) -> None:
    good = good_pages()
    mixed = [
        page(*((title, source, tuple(f"p{8 * ((kind + shift) % 8)}" for kind in range(6)))
               for shift, (title, source) in enumerate(((KINDS[0], "generated"), (KINDS[1], "generated")))))
        for _ in range(8)
    ]  # fmt: skip
    twins = [page(*((KINDS[0], "generated", products_of(0, 6)) for _ in range(3))) for _ in range(8)]
    of_good, of_mixed, of_twins = (
        figures(shop, Asked(pages, pages, [Rules()] * len(pages)), tmp_path) for pages in (good, mixed, twins)
    )
    assert of_good["cohesion"]["placements"]["low"] > of_good["cohesion"]["whole page"]["high"]
    assert of_good["cohesion"]["placements"]["value"] > of_mixed["cohesion"]["placements"]["value"]
    assert of_twins["diversity"]["placements"]["value"] == pytest.approx(0, abs=0.01)
    assert of_twins["diversity"]["distinct products"]["value"] == pytest.approx(1 / 3, abs=1e-3)
    assert of_good["diversity"]["placements"]["value"] > 0.3


def test_targets_of_rules(shop: tuple[BuildContext, ItemStore], tmp_path: Path) -> None:
    norrland = [f"p{row}" for row in range(64) if shop[1].brands[shop[1].brand[row]] == "Norrland"]
    rules = Rules(pin=("p1", "p2"), exclude_brands=("Norrland",), max_per_brand=1, required_themes=("Ours",))
    kept = page(("Ours", "required", ("p1", "p2")), ("Rugs", "generated", ("p3",)))
    broken = page(("Lamps", "generated", ("p2", *norrland[:2])))
    found = figures(shop, Asked([broken], [kept], [rules]), tmp_path)["targets"]
    assert {name: row["value"] for name, row in found["with the rules"].items()} == {
        "all": 1.0, "pin in its place": 1.0, "required theme": 1.0, "excluded brand": 1.0, "most of a brand": 1.0,
    }  # fmt: skip
    assert found["without them"]["all"]["value"] == 0.0


def test_histories_without_events_are_made_up(shop: tuple[BuildContext, ItemStore]) -> None:
    made = histories(shop[0].catalogue, 5, seed=1)
    assert [len(each) for each in made] == [6] * 5
    assert made == histories(shop[0].catalogue, 5, seed=1)


def test_no_placements_and_no_server(shop: tuple[BuildContext, ItemStore], tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="expected pages with placements, got none"):
        figures(shop, Asked([page()], [page()], [Rules()]), tmp_path)
    with pytest.raises(EvaluationError, match=r"none: expected the placements .* --part pages first"):
        read_questions(tmp_path / "none")
    with Client("127.0.0.1:1", timeout_s=2) as client, pytest.raises(EvaluationError, match="a page of 6 products"):
        ask_pages(shop[0], client, PageRequests(2, 4, 12, 0))
