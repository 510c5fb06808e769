"""`endcap outcomes` on what the real server has recorded."""

import io
import uuid
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from endcap_builders.outcomes.command import OutcomesRequest, run_outcomes
from endcap_client import Client
from endcap_server.exposures.segments import read_exposures
from endcap_server.launch import Server
from rich.console import Console
from waiting import wait_for


def test_events_find_the_pages_that_were_shown(server: Server, client: Client, tmp_path: Path) -> None:
    shoppers = [f"{uuid.uuid4().hex}-{number}" for number in range(3)]
    pages = [client.storefront(shopper=shopper) for shopper in shoppers]
    stranger = client.storefront()
    found = client.search("tea", shopper=shoppers[0])
    names = {each.status.document["page_id"] for each in (*pages, stranger, found)}
    wait_for(lambda: names <= set(read_exposures(server.exposures)["page_id"].to_pylist()), "the records of the pages")

    now = datetime.now(UTC)
    first = [page.placements[0].products[0].product_id for page in pages]
    last = [page.placements[-1].products[0].product_id for page in pages]
    rows = [(shopper, product, now, "view", "") for shopper, product in zip(shoppers, first, strict=True)]
    rows += [(shoppers[1], last[1], now, "cart", ""), (shoppers[2], "of another shop", now, "purchase", "")]
    bought = stranger.placements[1].products[2].product_id
    rows.append(("a stranger", bought, now, "purchase", stranger.status.document["page_id"]))
    columns = ["user_id", "product_id", "timestamp", "type", "page_id"]
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(tmp_path / "events.parquet")

    asked = OutcomesRequest(
        server.exposures,
        tmp_path / "events.parquet",
        out=tmp_path / "outcomes",
        secret=server.options.build / "exposures.key",
    )
    report = run_outcomes(asked, Console(file=io.StringIO()))
    assert report["counts"]["events"] == {"clicks": 3, "carts": 1, "purchases": 2}
    assert report["counts"]["attributed"] == {"clicks": 3, "carts": 1, "purchases": 1}
    assert report["counts"]["pages"] >= 4
    sources = {row["source"]: row for row in report["sources"]}
    assert sources[stranger.placements[1].source]["purchases"]["count"] == 1
    assert sum(row["clicks"]["count"] for row in report["sources"]) == 3
    positions = {row["position"]: row for row in report["positions"]}
    assert positions[2]["purchases"]["count"] == 1
    assert report["drift"]["days"][-1]["pages"] >= 4
    assert "| all | " in (tmp_path / "outcomes" / "report.md").read_text(encoding="utf-8")
