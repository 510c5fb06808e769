"""Facts on the real server: a change is on pages and searches at once, fails no request, and survives a rollout."""

import argparse
import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from endcap_client import Client
from endcap_client.types import Page, SearchResult
from endcap_server.facts.command import add_facts_command
from waiting import wait_for

from benchmarks.apply_bench import FAST, Bench
from benchmarks.apply_sources import copy_build, parameter

SetFacts = Callable[..., None]


@pytest.fixture
def set_facts(rollouts: Bench, tmp_path: Path) -> Iterator[SetFacts]:
    """Sets records by `endcap facts set` on the server of rollouts, which has no facts again afterwards."""

    def run(*records: dict[str, object]) -> None:
        path = tmp_path / "facts.jsonl"
        path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        parser = argparse.ArgumentParser()
        add_facts_command(parser.add_subparsers())
        parsed = parser.parse_args(["facts", "set", str(path), "--build", str(rollouts.source)])
        assert parsed.run(parsed) == 0

    yield run
    shutil.rmtree(rollouts.server.facts)
    assert rollouts.traffic.failed == []


@pytest.fixture
def asked(rollouts: Bench) -> Iterator[Client]:
    with Client(rollouts.server.grpc_address, timeout_s=20) as client:
        yield client


def ids(answer: Page | SearchResult) -> list[str]:
    if isinstance(answer, Page):
        return [product.product_id for placement in answer.placements for product in placement.products]
    return [product.product_id for product in answer.products]


def metrics_of(rollouts: Bench) -> str:
    with urllib.request.urlopen(f"http://{rollouts.server.metrics_address}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_stock_bans_and_titles_act_at_once(rollouts: Bench, asked: Client, set_facts: SetFacts) -> None:
    history = [rollouts.traffic.store.product_ids[row] for row in (3, 30, 300)]
    before, page = ids(asked.search("paint")), asked.storefront(history)
    assert asked.search("paint").status.document["facts_as_of"] is None
    sold_out = {before[0], ids(page)[0], ids(page)[-1]}
    title = next(each.theme for each in page.placements if each.source == "generated")
    set_facts(
        *({"product_id": product, "stock": 0} for product in sold_out),
        {"rule": "ban", "subject": f"title:{title}", "reason": "a test"},
        {"rule": "pin", "subject": f"product:{before[1]}", "reason": "a test"},
    )
    found, after = asked.search("paint"), asked.storefront(history)
    assert not sold_out & {*ids(found), *ids(after)}
    assert len(ids(found)) == len(before)
    assert found.status.document["facts_as_of"].endswith("Z")
    wait_for(lambda: "endcap_facts_age_seconds{" in metrics_of(rollouts), "the metric of their age")
    assert title not in [placement.theme for placement in after.placements]
    assert ids(after)[0] == before[1]
    set_facts(*({"product_id": product, "stock": 3} for product in sold_out))
    assert ids(asked.search("paint")) == before


def test_facts_stay_when_a_generation_goes_live(rollouts: Bench, asked: Client, set_facts: SetFacts) -> None:
    first = ids(asked.search("paint"))[0]
    set_facts({"product_id": first, "stock": 0})
    edited = copy_build(rollouts.state.snapshot(rollouts.standing.live), rollouts.folder / "with_facts")
    parameter("fusion", "order_weight", "0.021")(edited)
    outcome = rollouts.apply(edited, *FAST)
    assert outcome.code == 0, outcome.output
    assert first not in ids(asked.search("paint"))
    assert not (rollouts.state.snapshot(rollouts.standing.live) / "facts").exists()
