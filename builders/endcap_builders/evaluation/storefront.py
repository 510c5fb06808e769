"""`endcap evaluate storefront`: the share of shoppers' later purchases that pages show, compared with baselines."""

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from endcap_builders.catalogue import Catalogue, read_catalogue
from endcap_builders.catalogue.cut import EventCut, moment
from endcap_builders.evaluation.asking import Answers, ServedShop, ShownPage, connected
from endcap_builders.evaluation.pages import Shopper, shoppers_of
from endcap_builders.evaluation.queries import EvaluationError
from endcap_builders.evaluation.request import FOLDER, catalogue_of
from endcap_builders.evaluation.storefront_figures import known_figures, latency, new_figures
from endcap_builders.evaluation.storefront_report import write_storefront
from endcap_builders.machine import machine
from endcap_builders.manifest import cut_of, read_manifest
from endcap_builders.step import BuildContext, build_context

ANSWERS, WORK = "pages.jsonl", ".unfinished"
PAGE, BASE = "page", "base"
"""Names of the build's pages, and of those of the server in the comparison."""


@dataclass(frozen=True)
class StorefrontEvaluation:
    """What to measure.

    Attributes:
        build: a build whose events were cut.
        catalogue: with all events; None: the build's own.
        address: HOST:PORT of a server of the build; "": start one.
        against: HOST:PORT of another server for a comparison; "": none.
        purchases_until: date or time; only purchases before it count; "": all.
        shoppers: most shoppers, drawn at random; 0: all.
        seed: of the draw.
        placements: of a page.
        products: of a placement.
        timeout_s: of one page.
        name: of the report.
        afresh: whether to discard answers of an interrupted run.
    """

    build: Path
    catalogue: Path | None = None
    address: str = ""
    against: str = ""
    purchases_until: str = ""
    shoppers: int = 0
    seed: int = 0
    placements: int = 4
    products: int = 12
    timeout_s: float = 10.0
    name: str = "storefront"
    afresh: bool = False


@dataclass(frozen=True)
class Parts:
    """The data of the protocol: the catalogue before the cut, and the shoppers."""

    before: Catalogue
    known: list[Shopper]
    new: list[Shopper]
    eligible: int
    until: str


def run_storefront(request: StorefrontEvaluation, console: Console | None = None) -> dict[str, Any]:
    """Request the pages, write report.json, report.md and a plot; returns the report.

    Raises:
        EvaluationError: the build has seen every event, no shopper can be measured, or a request fails.
        CatalogueError: the catalogue cannot be read or cut.
        LaunchError: the server does not start.
    """
    cut, manifest = _cut(request.build), read_manifest(request.build)
    folder = request.catalogue or catalogue_of(request.build)
    parts = parts_of(request, cut, read_catalogue(folder), manifest["catalogue"]["digest"])
    out = request.build / FOLDER / request.name
    work = out / WORK
    if request.afresh:
        shutil.rmtree(work, ignore_errors=True)
    ctx = build_context(request.build, folder, work, console or Console(stderr=True))
    ctx.log(
        f"{len(parts.known)} of {parts.eligible} shoppers with a history, {len(parts.new)} new ones; "
        f"purchases of {parts.until}"
    )
    pages, new_pages = _ask(ctx, request, parts, manifest)
    report = {
        "format": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "build": str(request.build),
        "cut": cut.model_dump(),
        "asked": {**asdict(request), "build": str(request.build), "catalogue": str(folder)},
        "machine": machine(),
        "tools": manifest.get("tools", {}),
        "purchases": parts.until,
        "shoppers": {"measured": len(parts.known), "eligible": parts.eligible, "new": len(parts.new)},
        **known_figures(parts.before, parts.known, pages, request.placements * request.products),
        "new_shoppers": new_figures(parts.before, parts.new, new_pages, request.placements * request.products),
        "latency": latency(pages[PAGE], pages.get(BASE)),
    }
    work.mkdir(parents=True, exist_ok=True)
    (work / ANSWERS).replace(out / ANSWERS)
    shutil.rmtree(work)
    for path in write_storefront(report, out):
        ctx.log(str(path))
    return report


def _cut(build: Path) -> EventCut:
    if "repository" not in read_manifest(build)["steps"]:
        raise EvaluationError(f"{build}: expected a finished build, got none; run `endcap build` first")
    cut = cut_of(build)
    if not cut.cuts:
        raise EvaluationError(
            f"{build}: expected a build that has not seen every event, got one without a cut; build one with "
            "`endcap build --events-until TIME`, or with --hold-out-orders N where the times are not real"
        )
    return cut


def parts_of(request: StorefrontEvaluation, cut: EventCut, catalogue: Catalogue, digest: str) -> Parts:
    """The shoppers, and the purchases by which pages are measured.

    Args:
        request: what to measure.
        cut: the cut of the build.
        catalogue: with all events.
        digest: of the catalogue that the build was made from.

    Raises:
        EvaluationError: no shopper can be measured.
        CatalogueError: the catalogue has no events to cut.
    """
    if cut.hold_out_orders and catalogue.digest != digest:
        raise EvaluationError(
            f"{catalogue.folder}: expected the catalogue of the build, as each shopper's last orders are kept aside, "
            "got another one; name the same folder, or build again"
        )
    before, after = cut.split(catalogue)
    if request.purchases_until:
        after = after.filter(pl.col("timestamp") < moment(request.purchases_until))
    bought = after.filter(pl.col("type") == "purchase")
    where = f"{catalogue.folder}/events.parquet"
    if bought.is_empty():
        raise EvaluationError(
            f"{where}: expected purchases after the build's cut ({_cut_text(cut)}) to measure pages by, got none; "
            "name a catalogue that has later ones with --catalogue, or build with an earlier cut"
        )
    assert before.events is not None  # a catalogue without events cannot be cut
    known, new = shoppers_of(before.events, after)
    if not known:
        raise EvaluationError(
            f"{where}: expected shoppers with 10 events before the cut and 3 products bought after it, got none among "
            f"{bought['user_id'].n_unique()} who bought; a longer time after the cut may have some"
        )
    if cut.hold_out_orders:
        until = f"each shopper's last {cut.hold_out_orders} orders"
    else:
        until = " to ".join(bought["timestamp"].dt.date().sort()[[0, -1]].cast(pl.String))
    return Parts(
        before,
        _drawn(known, request.shoppers, request.seed),
        _drawn(new, request.shoppers, request.seed),
        len(known),
        until,
    )


def _cut_text(cut: EventCut) -> str:
    return f"events until {cut.events_until}" if cut.events_until else f"{cut.hold_out_orders} orders held out"


def _drawn(shoppers: Sequence[Shopper], count: int, seed: int) -> list[Shopper]:
    if not count or count >= len(shoppers):
        return list(shoppers)
    places = np.sort(np.random.default_rng(seed).choice(len(shoppers), count, replace=False))
    return [shoppers[place] for place in places]


def _ask(
    ctx: BuildContext, request: StorefrontEvaluation, parts: Parts, manifest: dict[str, Any]
) -> tuple[dict[str, list[ShownPage]], list[ShownPage]]:
    """Pages of the shoppers with a history by shop, and the build's pages of the new ones."""
    asked = {
        "built": {name: [entry["fingerprint"], entry["built"]] for name, entry in manifest["steps"].items()},
        "cut": cut_of(request.build).model_dump(),
        "against": request.against,
        "page": [request.placements, request.products],
    }
    answers = Answers(ctx.work / ANSWERS, asked)
    if len(answers):
        ctx.log(f"{len(answers)} pages are there from an interrupted run (--afresh asks for them again)")
    with ExitStack() as stack:
        addresses = {PAGE: request.address, **({BASE: request.against} if request.against else {})}
        shops = {
            name: ServedShop(stack.enter_context(connected(request.build, address, request.timeout_s)))
            for name, address in addresses.items()
        }
        size = request.placements, request.products
        known = answers.ask(ctx, shops, parts.known, *size)
        return known, answers.ask(ctx, {PAGE: shops[PAGE]}, parts.new, *size)[PAGE]
