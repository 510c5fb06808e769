"""`endcap evaluate storefront`: figures of answered pages, the file of answers, the report, and what is refused."""

import argparse
import io
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from endcap_builders.catalogue import read_catalogue, write_catalogue
from endcap_builders.catalogue.cut import EventCut
from endcap_builders.evaluation import storefront
from endcap_builders.evaluation.asking import Answers, ShownPage, ShownPlacement
from endcap_builders.evaluation.cli import add_evaluate_command
from endcap_builders.evaluation.pages import Shopper, shoppers_of
from endcap_builders.evaluation.queries import EvaluationError
from endcap_builders.evaluation.storefront import StorefrontEvaluation, run_storefront
from endcap_builders.evaluation.storefront_figures import difference, known_figures, latency, mean, new_figures, ratio
from endcap_builders.evaluation.storefront_report import markdown, write_storefront
from endcap_builders.machine import machine
from endcap_builders.step import BuildContext, build_context
from rich.console import Console

CUT = datetime(2024, 2, 1, tzinfo=UTC)


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """Two shoppers with a history, one without, over 20 products."""
    rows = [(user, f"p{n % 5}", CUT - timedelta(days=20 - n), "purchase") for user in ("ann", "bob") for n in range(10)]
    rows += [("ann", f"p{n}", CUT + timedelta(days=n), "purchase") for n in (3, 4, 7, 8)]
    rows += [("bob", f"p{n}", CUT + timedelta(days=n), "purchase") for n in (0, 1, 2)]
    rows += [("cid", f"p{n}", CUT + timedelta(days=n), "purchase") for n in (0, 1, 12)]
    events = pl.DataFrame(rows, schema=["user_id", "product_id", "timestamp", "type"], orient="row")
    products = pl.DataFrame({"product_id": [f"p{n}" for n in range(20)], "title": [f"Thing {n}" for n in range(20)]})
    write_catalogue(tmp_path / "shop", products, events)
    return tmp_path / "shop"


class Shelves:
    """A shop that shows everybody the same two placements; counts how often it was asked."""

    def __init__(self, *fail_at: int) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.fail_at = fail_at

    def page(self, history: Sequence[str], placements: int, products: int) -> ShownPage:
        if len(self.asked) in self.fail_at:
            raise EvaluationError("gone")
        self.asked.append(tuple(history))
        shelves = (
            ShownPlacement("Soup", "generated", ("p0", "p7")),
            ShownPlacement("Tea", "classic:popular", ("p1", "p9")),
        )
        return ShownPage(shelves, {"theme": "generated"}, 10.0 + len(self.asked))


def context(tmp_path: Path, catalogue: Path) -> BuildContext:
    return build_context(tmp_path / "build", catalogue, tmp_path / "work", Console(file=io.StringIO()))


def test_figures(tmp_path: Path, catalogue: Path) -> None:
    before, after = EventCut(events_until="2024-02-01").split(read_catalogue(catalogue))
    assert before.events is not None
    known, new = shoppers_of(before.events, after)
    shop = Shelves()
    pages = [shop.page(shopper.history, 2, 2) for shopper in known]
    found = known_figures(before, known, {"page": pages}, size=4)
    # Ann bought 3, 4, 7, 8 and had 0 to 4 before; Bob bought 0, 1, 2. The page shows 0, 7, 1, 9.
    page = found["systems"]["page"]
    assert (page["all"]["value"], page["all"]["shoppers"]) == (pytest.approx((1 / 4 + 2 / 3) / 2, abs=1e-4), 2)
    assert (page["new"]["value"], page["new"]["shoppers"]) == (0.5, 1)
    assert (page["products"], page["coverage"]) == (4.0, 0.2)
    assert list(found["systems"]) == ["page", "popular", "own", "static", "half"]
    assert set(found["minus"]["half"]) == set(found["over"]["half"]) == {"page", "popular", "own", "static"}
    generated, popular = found["sources"]["generated"], found["sources"]["classic:popular"]
    assert (generated["placements"], generated["share"], generated["hits"], generated["new_hits"]) == (
        2,
        0.5,
        0.5,
        0.25,
    )
    assert generated["all"]["value"] + popular["all"]["value"] == pytest.approx(page["all"]["value"], abs=2e-4)
    assert found["positions"]["2"] == popular
    assert found["titles"]["most_frequent_share"] == 1.0
    assert found["stages"] == {"theme": {"generated": 2}}
    fresh = new_figures(before, new, [shop.page((), 2, 2) for _ in new], size=4)
    assert fresh["shoppers"] == 1
    assert fresh["systems"]["page"]["all"]["value"] == pytest.approx(2 / 3, abs=1e-4)


def test_intervals_are_paired() -> None:
    """Shoppers differ far more than two pages do: only their difference shows which is better."""
    rng = np.random.default_rng(0)
    base = rng.random(200)
    better = base + 0.01
    assert mean(better)["low"] < mean(base)["high"]
    assert difference(better, base)["low"] == pytest.approx(0.01)
    assert 1 < ratio(better, base)["low"] < ratio(better, base)["high"] < 1.05
    assert difference(np.array([0.5, np.nan]), np.array([0.25, 0.5])) == {
        "value": 0.25, "low": 0.25, "high": 0.25, "shoppers": 1
    }  # fmt: skip
    assert ratio(base, np.zeros(200)) == {"shoppers": 0}
    assert mean(np.array([np.nan])) == {"shoppers": 0}


def test_latency_beside_a_base() -> None:
    pages = [ShownPage((), {}, float(ms)) for ms in range(10, 110)]
    slower = [ShownPage((), {}, 2 * page.ms) for page in pages]
    assert latency(pages, None) == {"page": {"p50_ms": 59.5, "p95_ms": 104.0}}
    assert latency(pages, slower)["p50_ratio"] == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_an_interrupted_evaluation_goes_on(tmp_path: Path, catalogue: Path) -> None:
    shoppers = [Shopper(name, (name,), (), frozenset()) for name in "abcde"]
    ctx, path, shop = context(tmp_path, catalogue), tmp_path / "pages.jsonl", Shelves(3)
    with pytest.raises(EvaluationError, match="gone"):
        Answers(path, {"built": 1}).ask(ctx, {"page": shop}, shoppers, 2, 2)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"shop": "page", "user": "d", "placem')
    shop.fail_at = ()
    answers = Answers(path, {"built": 1})
    assert len(answers) == 3
    pages = answers.ask(ctx, {"page": shop}, shoppers, 2, 2)["page"]
    assert shop.asked == [(name,) for name in "abcde"]
    assert [page.ms for page in pages] == [11, 12, 13, 14, 15]
    # Another build's answers are of no use.
    assert len(Answers(path, {"built": 2})) == 0


def test_two_shops_take_turns(tmp_path: Path, catalogue: Path) -> None:
    order: list[str] = []

    class Named(Shelves):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def page(self, history: Sequence[str], placements: int, products: int) -> ShownPage:
            order.append(self.name)
            return super().page(history, placements, products)

    shoppers = [Shopper(name, (), (), frozenset()) for name in "ab"]
    shops = {"page": Named("page"), "base": Named("base")}
    found = Answers(tmp_path / "pages.jsonl", {}).ask(context(tmp_path, catalogue), shops, shoppers, 1, 1)
    assert order == ["base", "page", "page", "base"]
    assert {name: len(pages) for name, pages in found.items()} == {"page": 2, "base": 2}


def built(tmp_path: Path, catalogue: Path, cut: dict[str, Any]) -> Path:
    """A build as far as its manifest says: what is refused is refused before anything else is read."""
    step = {"fingerprint": "f", "built": "now", "settings": {}}
    manifest = {
        "format": 1,
        "catalogue": {"folder": str(catalogue), "digest": "other"},
        "steps": {"catalogue": {**step, "settings": cut}, "repository": step},
    }
    build = tmp_path / "build"
    build.mkdir(exist_ok=True)
    (build / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return build


@pytest.mark.parametrize(
    ("cut", "changes", "message"),
    [
        ({}, {}, "expected a build that has not seen every event, got one without a cut"),
        ({"events_until": "2030-01-01"}, {}, r"expected purchases after .*events until 2030-01-01.*, got none"),
        (
            {"events_until": "2024-02-01"},
            {"purchases_until": "2024-02-02"},
            "products bought after it, got none",
        ),
        ({"events_until": "2024-01-20"}, {}, r"shoppers with 10 events before the cut .* got none among 3 who bought"),
        ({"hold_out_orders": 1}, {}, "expected the catalogue of the build"),
    ],
)
def test_what_cannot_be_measured(
    tmp_path: Path, catalogue: Path, cut: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    build = built(tmp_path, catalogue, cut)
    with pytest.raises(EvaluationError, match=message):
        run_storefront(StorefrontEvaluation(build, **changes), Console(file=io.StringIO()))


def test_no_build(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="expected a finished build, got none"):
        run_storefront(StorefrontEvaluation(tmp_path / "nothing"), Console(file=io.StringIO()))


def test_a_server_that_does_not_answer(tmp_path: Path, catalogue: Path) -> None:
    build = built(tmp_path, catalogue, {"events_until": "2024-02-01"})
    request = StorefrontEvaluation(build, address="127.0.0.1:9", timeout_s=2)
    with pytest.raises(EvaluationError, match=r"a page of 10 products of history: "):
        run_storefront(request, Console(file=io.StringIO()))


def test_the_report(tmp_path: Path, catalogue: Path) -> None:
    parts = storefront.parts_of(
        StorefrontEvaluation(tmp_path / "build"), EventCut(events_until="2024-02-01"), read_catalogue(catalogue), ""
    )
    shop = Shelves()
    pages = {"page": [shop.page((), 2, 2) for _ in parts.known]}
    report = {
        "machine": machine(),
        "purchases": parts.until,
        "shoppers": {"measured": 2, "eligible": 2, "new": 1},
        **known_figures(parts.before, parts.known, pages, 4),
        "new_shoppers": new_figures(parts.before, parts.new, [shop.page((), 2, 2)], 4),
        "latency": latency(pages["page"], pages["page"]),
    }
    paths = write_storefront(report, tmp_path / "report")
    assert [path.name for path in paths] == ["report.json", "report.md", "shares.png"]
    assert all(path.stat().st_size for path in paths)
    text = markdown(report)
    assert "2024-02-01 to 2024-02-13" in text
    assert "| page | 0.4583 [" in text
    assert "| classic:popular | 2 | 50.0% |" in text
    assert 'Titles: 2 distinct of 4 shown (50%); "Soup" stands on 100% of the pages' in text
    assert "1 new shoppers: page 0.6667" in text
    assert "page over base 1.0000 [1.0000, 1.0000]" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["storefront"], "the following arguments are required: --build"),
        (["storefront", "--build", "b", "--shoppers", "-1"], "expected a whole number from 0 .*, got '-1'"),
        (["storefront", "--build", "b", "--purchases-until", "soon"], "expected a date or time such as .*, got 'soon'"),
        (["pages", "--build", "b"], "invalid choice: 'pages'"),
    ],
)
def test_wrong_options(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(words)
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("kind", ["storefront", "search"])
def test_errors_are_told(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parsed([kind, "--build", str(tmp_path / "nothing")])
    assert arguments.run(arguments) == 1
    assert re.match(r"endcap evaluate: .*/nothing: expected a .*build, got none", capsys.readouterr().err)


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_evaluate_command(parser.add_subparsers(dest="command"))
    return parser.parse_args(["evaluate", *words])
