"""The check of random storefronts, stopped before its end."""

import os
import random
import signal
from typing import Any

from endcap_client import Client, Page
from endcap_server.launch import Server
from endcap_server.shop.store import ItemStore

from benchmarks.storefront_validity import Tally, ask_all, random_shopper


class StoppedAtTheThird(Client):
    """A client in whose third request somebody ends the program."""

    asked = 0

    def storefront(self, *arguments: Any, **named: Any) -> Page:
        self.asked += 1
        if self.asked == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().storefront(*arguments, **named)


def test_reports_what_it_has_seen_when_it_is_stopped(store: ItemStore, server: Server) -> None:
    rng = random.Random(1)
    shoppers = [(*random_shopper(store, rng), 2) for _ in range(200)]
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    tally = Tally()
    with StoppedAtTheThird(server.grpc_address, timeout_s=30) as client:
        assert not ask_all(client, store, shoppers, 2, tally)
        assert client.asked < 10
    document = tally.document(1.0)
    assert 2 <= document["requests"] == client.asked
    assert document["wrong"] == 0
    assert document["p95_ms"] >= document["p50_ms"] > 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_runs_to_the_end(store: ItemStore, server: Server) -> None:
    tally = Tally()
    with Client(server.grpc_address, timeout_s=30) as client:
        assert ask_all(client, store, [([], [], 1), ([], [], 2)], 2, tally)
    assert tally.document(2.0)["requests"] == 2
    assert sum(tally.sources.values()) == 10
    assert Tally().document(1.0) == {"requests": 0, "wrong": 0, "sources": {}}
