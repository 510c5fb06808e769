"""The studio on a server of its own, and the browser of its tests."""

import random
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pyarrow as pa
import uvicorn
from endcap_server.exposures.record import SECRET_FILE, ShopperKeys
from endcap_server.exposures.segments import schema, write_segment
from endcap_server.launch import Server, ServerOptions
from endcap_server.shop.columns import StringColumn
from endcap_server.shop.facts_state import FactsState
from endcap_server.shop.standing_rules import StandingRule
from endcap_server.shop.store import ItemStore
from endcap_studio.app import Studio, create_app
from endcap_studio.deployment import Deployment
from endcap_studio.security import Guard
from waiting import wait_for

from benchmarks.apply_sources import copy_build, list_files

EVIL = "<script>alert('title')</script>"
"""Beginning of the title of the product that sells best."""


@dataclass
class RunningStudio:
    """A studio.

    Attributes:
        address: http://HOST:PORT.
        server: The server that it is about.
        studio: Its state.
        http: A session with it.
    """

    address: str
    server: Server
    studio: Studio
    http: httpx.Client

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.http.get(path, params=query or None)

    def post(self, path: str, **form: Any) -> httpx.Response:
        """Post a form as a page of this session would."""
        return self.http.post(path, data={"csrf": self.csrf, **form})

    @property
    def csrf(self) -> str:
        found = re.search(r'"X-CSRF-Token": "([0-9a-f]+)"', self.get("/rules").text)
        assert found is not None
        return found[1]

    @property
    def rules(self) -> list[StandingRule]:
        return list(FactsState.read(self.server.facts).rules.values())


@contextmanager
def listening(studio: Studio) -> Iterator[str]:
    """Serve a studio on a free port; its address."""
    server = uvicorn.Server(uvicorn.Config(create_app(studio), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started, "the studio listens")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)


@contextmanager
def studio_on(build: Path, catalogue: Path) -> Iterator[RunningStudio]:
    """A studio and a server on a copy of a build, whose best seller has a script in its title."""
    folder = Path(tempfile.mkdtemp(prefix=".studio-", dir=build.parent))
    try:
        source = copy_build(build, folder / "shop")
        _put_script(source)
        list_files(source)
        with Server(ServerOptions(build=source, grpc_port=0, http_port=0, metrics_port=0)) as server:
            _write_past(server, source, folder / "events.parquet")
            studio = Studio(Deployment(source, server.grpc_port, catalogue, folder / "events.parquet"), Guard())
            with listening(studio) as address, httpx.Client(base_url=address, timeout=60) as http:
                yield RunningStudio(address, server, studio, http)
            studio.jobs.close()
            studio.deployment.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def best_seller(store: ItemStore) -> int:
    return int(store.popularity.argmax())


_PAST_DAYS, _PAST_SHOPPERS = 10, 45
_PAST = (
    ("Bought again", "classic:buy_again", 0.16),
    ("Slow Sunday breakfasts", "generated", 0.11),
    ("For the balcony", "generated", 0.08),
    ("Goes with it", "classic:together", 0.05),
)
"""Title, source and cart adds per view of what pages of the past have shown."""


def _write_past(server: Server, build: Path, events: Path) -> None:
    """Pages of the last days, each with a shopper, and the cart adds that followed."""
    keys, ids = ShopperKeys((build / SECRET_FILE).read_bytes().strip()), ItemStore.open(build).product_ids
    chance, rows, followed = random.Random(7), [], []
    today = datetime.now(UTC).replace(hour=9, minute=0, second=0, microsecond=0)
    for number in range(_PAST_DAYS * _PAST_SHOPPERS):
        day, shopper = divmod(number, _PAST_SHOPPERS)
        time = today - timedelta(days=_PAST_DAYS - day, minutes=shopper)
        placements = []
        for place, (title, source, rate) in enumerate(_PAST):
            shown = [ids[(number * 31 + place * 211 + rank) % len(ids)] for rank in range(6)]
            scores = [1 - 0.1 * rank for rank in range(6)]
            placements.append({"title": title, "source": source, "keywords": [], "products": shown, "scores": scores})
            if chance.random() < rate * (1 + 0.06 * day):
                followed.append((f"past-{shopper}", shown[0], time + timedelta(minutes=5), "cart"))
        rows.append(
            {"page_id": f"past-{number}", "ensemble": "storefront", "shopper": keys.hashed(f"past-{shopper}".encode())}
            | {"time": time, "generation": 1, "query": "", "history": 4, "unknown_ids": 0, "placements": placements}
            | {"process": "past", "sequence": number}
        )
    server.exposures.mkdir(parents=True, exist_ok=True)
    write_segment(pa.Table.from_pylist(rows, schema()), server.exposures / "20200101T000000-1-past-000000000.parquet")
    columns = ["user_id", "product_id", "timestamp", "type"]
    pl.DataFrame(followed, schema=columns, orient="row").write_parquet(events)


def _put_script(build: Path) -> None:
    store = ItemStore.open(build)
    titles = list(store.titles)
    titles[best_seller(store)] = f"{EVIL} {titles[best_seller(store)]}"
    # The copy shares files with the build.
    for part in StringColumn.PARTS:
        (build / "store" / f"titles{part}.npy").unlink()
    StringColumn.write(build / "store", "titles", titles)
