"""Exposures on the real server: what a page and a search show is recorded, with a hash of the shopper's key."""

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
from endcap_client import Client
from endcap_client.errors import InvalidArgument
from endcap_server.exposures.record import ShopperKeys
from endcap_server.exposures.segments import read_exposures
from endcap_server.launch import Server
from endcap_server.retention.command import add_exposures_command
from waiting import wait_for


def recorded(folder: Path, page_id: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        return [row for row in read_exposures(folder).to_pylist() if row["page_id"] == page_id]

    wait_for(found, "the record of a page")
    (row,) = found()
    return row


def test_pages_and_searches_are_recorded(server: Server, client: Client) -> None:
    page = client.storefront(shopper="shopper-1")
    result = client.search("tea", shopper="shopper-1")
    row = recorded(server.exposures, page.status.document["page_id"])
    shown = [[product.product_id for product in each.products] for each in page.placements]
    assert [each["products"] for each in row["placements"]] == shown
    assert [each["title"] for each in row["placements"]] == [each.theme for each in page.placements]
    assert [each["source"] for each in row["placements"]] == [each.source for each in page.placements]
    assert [each["keywords"] for each in row["placements"]] == [list(each.keywords) for each in page.placements]
    assert (row["ensemble"], row["generation"], row["query"]) == ("storefront", 1, "")
    secret = (server.options.build / "exposures.key").read_bytes().strip()
    assert row["shopper"] == ShopperKeys(secret).hashed(b"shopper-1")
    row = recorded(server.exposures, result.status.document["page_id"])
    assert (row["ensemble"], row["query"]) == ("search", "tea")
    (found,) = row["placements"]
    assert found["products"] == [product.product_id for product in result.products]
    assert b"shopper-1" not in b"".join(path.read_bytes() for path in server.exposures.glob("*.jsonl"))


def test_a_long_shopper_key_is_refused(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="at most 128 bytes"):
        client.storefront(shopper="x" * 129)


def test_a_shopper_is_erased_while_the_server_runs(
    server: Server, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = client.storefront(shopper="gone").status.document["page_id"]
    kept = client.storefront(shopper="kept").status.document["page_id"]
    parser = argparse.ArgumentParser()
    add_exposures_command(parser.add_subparsers())
    words = ["--shopper", "gone", "--build", str(server.options.build), "--exposures", str(server.exposures)]
    parsed = parser.parse_args(["exposures", "erase", *words])
    assert parsed.run(parsed) == 0
    # An earlier run on the same build has left records of this shopper.
    assert re.search(r"^[1-9]\d* records of 1 shoppers removed from [1-9]\d* files", capsys.readouterr().out)
    pages = read_exposures(server.exposures).column("page_id").to_pylist()
    assert kept in pages
    assert gone not in pages
    recorded(server.exposures, client.storefront(shopper="gone").status.document["page_id"])
