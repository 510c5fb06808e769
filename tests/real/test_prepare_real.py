"""`endcap prepare` with the engines of a build, and what the real server makes of its pages."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import BUILDS
from endcap_builders.catalogue import read_catalogue
from endcap_builders.prepare.command import PrepareRequest, Summary, run_prepare
from endcap_builders.prepare.errors import PrepareError
from endcap_client import Client
from endcap_server.exposures.record import SECRET_FILE, ShopperKeys
from endcap_server.prepared.page import PreparedPage
from endcap_server.prepared.stores import FOLDER, StoreError, open_store
from rich.console import Console
from waiting import wait_for

_BATCH = 4
_KILLED = """
import os, signal, sys
from pathlib import Path
from endcap_builders.prepare.command import PrepareRequest, run_prepare
from endcap_builders.prepare.making import PageMaker
from rich.console import Console
make, batches = PageMaker.make, []
def dying(self, *arguments):
    batches.append(1)
    if len(batches) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(self, *arguments)
PageMaker.make = dying
run_prepare(PrepareRequest(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], batch=int(sys.argv[4])), Console())
"""
"""Dies in its third batch."""


@pytest.fixture(scope="module")
def histories() -> dict[str, list[str]]:
    """Shoppers of the catalogue whose histories say something."""
    events = read_catalogue(BUILDS / "catalogues/test").events
    assert events is not None
    found = events.sort("timestamp").group_by("user_id", maintain_order=True).agg("product_id")
    return {user: products[-40:] for user, products in found.iter_rows() if len(products) >= 8}


@pytest.fixture(scope="module")
def shoppers(histories: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 20 of them, with a line that cannot be read, an unknown product, and a shopper who comes twice."""
    path = tmp_path_factory.mktemp("shoppers") / "shoppers.jsonl"
    lines = [{"shopper": user, "history": history} for user, history in list(histories.items())[:20]]
    lines[-1] = {**lines[-1], "history": [*lines[-1]["history"], "no such product"]}
    texts = [json.dumps(line) for line in [{**lines[0], "history": []}, *lines]]
    path.write_text("\n".join([*texts[:5], '{"shopper": 7}', "", *texts[5:]]), encoding="utf-8")
    return path


def pages_of(address: Path, build: Path, users: list[str]) -> dict[str, bytes]:
    try:
        keys = ShopperKeys((build / SECRET_FILE).read_bytes().strip())
        store = open_store(str(address), keys.identity)
    except (StoreError, FileNotFoundError):
        return {}
    found = store.get_all([keys.hashed(user.encode()) for user in users])
    pages = {user: page for user, page in zip(users, found, strict=True) if page is not None}
    store.close()
    return pages


@pytest.fixture(scope="module")
def resumed(
    build: Path, shoppers: Path, histories: dict[str, list[str]]
) -> Iterator[tuple[dict[str, bytes], Summary, str]]:
    """Pages of a run that was killed, and the summary and the lines of a second one."""
    store = build / FOLDER
    shutil.rmtree(store, ignore_errors=True)
    command = [sys.executable, "-c", _KILLED, build, shoppers, store, str(_BATCH)]
    killed = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    assert killed.returncode == -signal.SIGKILL
    before = pages_of(store, build, list(histories))
    console = Console(record=True, width=200)
    summary = run_prepare(PrepareRequest(build, shoppers, batch=_BATCH), console)
    yield before, summary, console.export_text()
    shutil.rmtree(store)


def test_a_killed_run_loses_nothing_that_was_written(
    resumed: tuple[dict[str, bytes], Summary, str], build: Path, histories: dict[str, list[str]]
) -> None:
    before, summary, said = resumed
    after = pages_of(build / FOLDER, build, list(histories))
    assert len(before) >= 1
    assert before.items() <= after.items()
    assert summary.kept == len(before)
    assert summary.written == len(after) - len(before) > 0
    assert summary.written + summary.kept + summary.problems.total() == 20
    assert "1 lines left out; line 6: shopper: expected a text of 1 to 128 bytes, got 7" in said
    assert "1 lines of shoppers that come again" in said
    assert "up to date" in said
    assert "1 products of histories are not in the catalogue" in said


def test_the_server_shows_what_was_prepared(
    resumed: tuple[dict[str, bytes], Summary, str], client: Client, build: Path, histories: dict[str, list[str]]
) -> None:
    pages = pages_of(build / FOLDER, build, list(histories))
    user = next(iter(pages))

    def taken() -> bool:
        return bool(client.storefront(histories[user], shopper=user).status.stages["theme"].source == "prepared")

    wait_for(taken, "the server to notice the store")
    for user, value in list(pages.items())[:3]:
        prepared = PreparedPage.read(value)
        assert prepared is not None
        page = client.storefront(histories[user], shopper=user)
        live = client.storefront(histories[user])
        assert page.status.stages["theme"].source == page.status.stages["keywords"].source == "prepared"
        assert page.status.document["stages"]["theme"]["prepared_age_s"] > 0
        words = {theme.title: theme.keywords for theme in prepared.themes}
        shown = {each.theme: each.keywords for each in page.placements if each.source == "prepared"}
        assert shown
        assert shown == {title: words[title] for title in shown}
        assert live.status.stages["theme"].source in ("generated", "cached")
        assert [each.theme for each in page.placements] == [each.theme for each in live.placements]
        assert [each.products for each in page.placements] == [each.products for each in live.placements]
        moved = client.storefront([*histories[user], *histories[user][:4]], shopper=user)
        assert moved.status.document["stages"]["theme"]["prepared"] == "moved_on"


def test_what_prepare_refuses(build: Path, shoppers: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(PrepareError, match="expected a shopper in each line or row, got an empty file"):
        run_prepare(PrepareRequest(build, tmp_path / "empty.jsonl"), Console())
    other = open_store(str(tmp_path / "other"), ShopperKeys(b"another").identity, write=True)
    other.close()
    del other
    with pytest.raises(PrepareError, match="pages of shoppers whose keys were hashed with another secret"):
        run_prepare(PrepareRequest(build, shoppers, str(tmp_path / "other")), Console())


# Ray's own sockets and processes end when it is shut down, not when the test does.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning",
                            "ignore::FutureWarning", "ignore::DeprecationWarning")  # fmt: skip
@pytest.mark.long
def test_two_nodes_of_a_ray_cluster_make_the_same_pages_when_a_worker_is_killed(
    resumed: tuple[dict[str, bytes], Summary, str],
    build: Path,
    shoppers: Path,
    histories: dict[str, list[str]],
    tmp_path: Path,
) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    store, killed = tmp_path / "ray", []

    def kill_one() -> None:
        wait_for(lambda: pages_of(store, build, list(histories)), "the pages of the first batch")
        workers = [each for each in psutil.Process().children(recursive=True) if "ray::" in each.name()]
        killed.extend(each for each in workers if "MapWorker" in " ".join(each.cmdline()))
        killed[0].kill()

    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        killer = threading.Thread(target=kill_one)
        killer.start()
        request = PrepareRequest(build, shoppers, str(store), batch=2, ray=cluster.address)
        summary = run_prepare(request, Console())
        killer.join()
    finally:
        cluster.shutdown()
    assert len(killed) == 2, "one on each node"
    there = {user: PreparedPage.read(page) for user, page in pages_of(store, build, list(histories)).items()}
    here = {user: PreparedPage.read(page) for user, page in pages_of(build / FOLDER, build, list(histories)).items()}
    assert summary.written == len(there) == len(here)
    assert all(there[user].themes == page.themes for user, page in here.items())
