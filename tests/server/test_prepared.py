"""Prepared pages: what of them a request gets, and what a store that fails costs it."""

import asyncio
import socket
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from endcap_server.declared.tensors import Tensors, bytes_tensor
from endcap_server.exposures.record import SECRET_VARIABLE, ShopperKeys
from endcap_server.prepared.page import MOST_DRIFT, PreparedPage, PreparedTheme, history_digests, search_digests
from endcap_server.prepared.stores import FOLDER, LmdbStore, StoreError, open_store, shown
from endcap_server.shop.facts import FOLDER as FACTS
from endcap_server.shop.facts_state import FactsWriter, RuleChange
from endcap_server.shop.rules import MerchandisingRules
from endcap_server.shop.standing_rules import RuleKind, StandingRule
from endcap_server.stages.documents import KeywordRows, PlacementSource, Themes
from endcap_server.stages.keywords import Keywords
from endcap_server.stages.retrieval import Retrieval
from endcap_server.stages.status import part_of
from endcap_server.stages.theme import Theme
from redis_server import RedisServer
from tiny_shop import TinyEngines, build_shop

KEYS = ShopperKeys(b"the secret of this deployment")
HISTORY = ("p0", "p2", "p40")
TITLES = ("Lamps to read by", "Tea and biscuits", "Games for the rain", "Seeds for spring", "Nuts for later")
PAGE = PreparedPage(
    made_s=time.time() - 60,
    placements=4,
    history=history_digests(HISTORY)[0],
    versions={},
    themes=tuple(
        PreparedTheme(title=title, concepts=(concept,), keywords=(keyword, concept), ranked=True)
        for title, concept, keyword in zip(
            TITLES,
            ("reading lamp", "green tea", "board game", "herb seeds", "salted nuts"),
            ("desk lamp", "ground coffee", "card game", "salad seeds", "rice crackers"),
            strict=True,
        )
    ),
)


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDCAP_RUN_DIR", str(tmp_path / "run"))
    (tmp_path / "secret").write_bytes(b"the secret of this deployment")
    monkeypatch.setenv(SECRET_VARIABLE, str(tmp_path / "secret"))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return build_shop(tmp_path / "shop")


def write(address: Path | str, page: PreparedPage = PAGE, shopper: bytes = b"ada", keys: ShopperKeys = KEYS) -> None:
    store = open_store(str(address), keys.identity, write=True)
    store.put({keys.hashed(shopper): page.value()})
    store.close()


class Shop:
    """The first three stages over a tiny shop."""

    def __init__(self, build: Path, **theme: Any) -> None:
        parameters = {"unknown_words": "allow"} | {name: str(value) for name, value in theme.items()}
        self.engines = TinyEngines(build)
        self.theme = Theme(build, parameters, self.engines)
        self.stages = (Retrieval(build, {}, self.engines), self.theme, Keywords(build, {}, self.engines))

    def ask(
        self, shopper: str = "ada", history: tuple[str, ...] = HISTORY, session: tuple[str, ...] = (), **rules: Any
    ):
        inputs: Tensors = {"HISTORY": bytes_tensor(history), "SESSION": bytes_tensor(session)}
        if shopper:
            inputs["SHOPPER"] = bytes_tensor([shopper])
        if rules:
            inputs["RULES"] = bytes_tensor([MerchandisingRules(**rules).model_dump_json(exclude_defaults=True)])
        return Answer(asyncio.run(self._run(inputs)))

    async def _run(self, tensors: Tensors) -> Tensors:
        self.engines.calls.clear()
        for stage in self.stages:
            known = stage.recall(tensors)
            if known is None:
                tensors |= await stage.run(tensors)
            else:
                tensors |= {stage.status_tensor: stage.carry(known.status(), known.document)}
        return tensors

    def close(self) -> None:
        self.theme.close()

    def llm_calls(self) -> list[str]:
        return [name for name, _ in self.engines.calls if name.endswith("llm")]


class Answer:
    def __init__(self, tensors: Tensors) -> None:
        self.themes, self.status = Themes.read(tensors["THEMES"]), part_of(tensors["THEMES"])
        self.keywords, self.keyword_status = KeywordRows.read(tensors["KEYWORDS"]), part_of(tensors["KEYWORDS"])

    @property
    def titles(self) -> list[str]:
        return [title for title in self.themes.titles if title]


def test_the_shoppers_prepared_themes_and_keywords_are_taken(shop: Path) -> None:
    write(shop / FOLDER)
    serving = Shop(shop)
    found = serving.ask()
    assert found.titles == list(TITLES)
    assert set(found.themes.sources) == {PlacementSource.PREPARED}
    assert (found.status["source"], found.status["prepared"]) == ("prepared", "taken")
    assert found.status["prepared_age_s"] >= 60
    assert found.keyword_status["source"] == "prepared"
    words = Keywords(shop, {}, serving.engines).store.keywords
    assert [words.take(row for row in rows if row >= 0) for rows in found.keywords.rows] == [
        list(theme.keywords) for theme in PAGE.themes
    ]
    assert set(found.keywords.ranked) == {True}
    assert serving.llm_calls() == []


@pytest.mark.parametrize("asked", [{"shopper": "eve"}, {"shopper": ""}])
def test_others_have_live_pages(shop: Path, asked: dict[str, str]) -> None:
    write(shop / FOLDER)
    found = Shop(shop).ask(**asked)
    assert found.status["source"] == "generated"
    assert found.status.get("prepared") == ("none" if asked["shopper"] else None)
    assert not set(found.titles) & set(TITLES)


def test_a_shopper_moves_on_by_purchases_and_searches(shop: Path) -> None:
    write(shop / FOLDER)
    serving = Shop(shop, prepared_drift=2)

    def taken(**asked: Any) -> bool:
        found = serving.ask(**asked)
        assert found.status["prepared"] in ("taken", "moved_on")
        assert (found.status["prepared"] == "taken") == (PlacementSource.PREPARED in found.themes.sources)
        return found.status["prepared"] == "taken"

    assert taken(history=(*HISTORY, "p7"))
    assert taken(history=(*HISTORY, "p7", "p8"))
    assert not taken(history=(*HISTORY, "p7", "p8", "p9"))
    assert taken(history=(*HISTORY, "p7"), session=("green tea",))
    assert not taken(history=(*HISTORY, "p7"), session=("green tea", "lamp"))
    assert taken(session=("lamp", "Lamp", "lamp"))
    assert not taken(history=("p1", "p2", "p3"))
    assert not taken(history=())


def test_a_long_history_is_known_by_its_newest_events() -> None:
    history = [f"p{number}" for number in range(300)]
    past = history_digests(history[50:])
    assert len(past) == MOST_DRIFT + 1
    for new in range(MOST_DRIFT + 1):
        page = PAGE.model_copy(update={"history": history_digests(history[: 300 - new])[0]})
        assert page.moved_on(past, ()) == new
    page = PAGE.model_copy(update={"searches": search_digests(["tea", "lamp"])})
    assert page.moved_on([page.history], search_digests(["TEA", "rug"])) == 1


def test_a_new_search_has_its_own_placement_before_the_prepared_ones(shop: Path) -> None:
    write(shop / FOLDER)
    serving = Shop(shop)
    found = serving.ask(session=("jigsaw puzzle",))
    assert found.titles[:2] == ["Jigsaw puzzle", TITLES[0]]
    assert found.themes.sources[:2] == (PlacementSource.SESSION, PlacementSource.PREPARED)
    assert serving.llm_calls() == ["keyword_llm"], "for the search alone"
    assert len([rows for rows in found.themes.keywords if rows]) == 4
    assert found.keyword_status["source"] == "generated"
    assert found.keyword_status["prepared_keyword_themes"] == 4


def ban(shop: Path, *titles: str) -> None:
    rules = [StandingRule(rule=RuleKind.BAN, subject=f"title:{title}", reason="a test") for title in titles]
    FactsWriter(shop / FACTS, "test").write(rules=[RuleChange(each) for each in rules])


def test_a_banned_title_vanishes_at_once(shop: Path) -> None:
    write(shop / FOLDER)
    serving = Shop(shop)
    assert TITLES[1] in serving.ask().titles
    ban(shop, TITLES[1])
    found = serving.ask()
    assert found.titles == [TITLES[0], *TITLES[2:]]
    assert found.status["aiqa"] == {"title_banned": 1}
    ban(shop, TITLES[0])
    found = serving.ask()
    assert not set(found.titles) & set(TITLES), "too few are left, LLM 1 writes others"
    assert (found.status["source"], found.status["prepared"]) == ("generated", "refused")
    assert found.status["aiqa"] == {}


def test_what_rules_exclude_is_on_no_prepared_page(shop: Path) -> None:
    write(shop / FOLDER)
    found = Shop(shop).ask(exclude={"categories": ["grocery > drinks"]})
    assert TITLES[1] not in found.titles
    assert TITLES[0] in found.titles
    words = TinyEngines(shop).store.keywords
    shown = {word for rows in found.keywords.rows for word in words.take(row for row in rows if row >= 0)}
    assert not shown & {"green tea", "ground coffee"}


def test_required_themes_come_first(shop: Path) -> None:
    write(shop / FOLDER)
    found = Shop(shop).ask(required_themes=["Soft rugs"])
    assert found.titles[:2] == ["Soft rugs", TITLES[0]]
    assert found.themes.sources[:2] == (PlacementSource.REQUIRED, PlacementSource.PREPARED)


def test_another_campaign_more_placements_and_age_need_llm_1(shop: Path) -> None:
    def result(rules: dict[str, str], **theme: Any) -> str:
        with closing(Shop(shop, **theme)) as serving:
            return str(serving.ask(**rules).status.get("prepared"))

    campaign = {"campaign": "Garden week"}
    write(shop / FOLDER)
    assert result(campaign) == "other_request"
    assert result({}, prepared_ttl_s=30) == "expired"
    assert result({}, prepared_drift=-1) == "None"
    write(shop / FOLDER, PAGE.model_copy(update=campaign))
    assert result(campaign) == "taken"
    write(shop / FOLDER, PAGE.model_copy(update={"placements": 3}))
    assert result({}) == "other_request"


def test_a_page_of_keywords_that_the_build_does_not_have_is_ignored(shop: Path) -> None:
    gone = PAGE.themes[0].model_copy(update={"keywords": ("desk lamp", "astrolabe")})
    write(shop / FOLDER, PAGE.model_copy(update={"themes": (gone, *PAGE.themes[1:])}))
    found = Shop(shop).ask()
    assert (found.status["source"], found.status["prepared"]) == ("generated", "keywords_gone")


def test_prepared_and_kept_answers_do_not_mix(shop: Path) -> None:
    """Equal shoppers' generated answers are kept; prepared ones are neither kept nor hidden by them."""
    write(shop / FOLDER)
    serving = Shop(shop)
    assert serving.ask().status["source"] == "prepared"
    live = serving.ask("eve")
    assert (live.status["source"], live.keyword_status["source"]) == ("generated", "generated")
    again = serving.ask("")
    assert (again.status["source"], again.keyword_status["source"]) == ("cached", "cached")
    assert "prepared" not in again.status
    kept = serving.ask("eve")
    assert (kept.status["source"], kept.status["prepared"]) == ("cached", "none")
    assert kept.themes == again.themes == live.themes
    assert serving.ask().status["source"] == "prepared"


def spoil(folder: Path, how: str) -> None:
    file = folder / "data.mdb"
    if how == "cut":
        with file.open("r+b") as opened:
            opened.truncate(file.stat().st_size // 2)
    elif how == "text":
        file.write_text("this is no LMDB file" * 1000, encoding="utf-8")
    elif how == "noise":
        size = file.stat().st_size
        file.write_bytes(file.read_bytes()[:8192] + b"\xa5" * (size - 8192))
    elif how == "folder":
        file.unlink()
        file.mkdir()


@pytest.mark.parametrize("how", ["cut", "text", "noise", "folder", "other secret"])
def test_a_broken_store_costs_no_page(shop: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    write(shop / FOLDER, keys=ShopperKeys(b"another") if how == "other secret" else KEYS)
    spoil(shop / FOLDER, how)
    serving = Shop(shop)
    for _ in range(4):
        found = serving.ask()
        assert found.status["source"] in ("generated", "cached")
        assert found.status["prepared"] == "unavailable"
    assert len(caplog.messages) == 1, caplog.messages


def test_a_store_may_come_go_and_come_back_while_the_server_runs(shop: Path) -> None:
    serving = Shop(shop)
    assert "prepared" not in serving.ask().status, "there is no store"
    write(shop / FOLDER)
    assert serving.ask().status["prepared"] == "taken"
    (shop / FOLDER / "data.mdb").unlink()
    assert serving.ask().status["prepared"] == "unavailable"
    assert "prepared" not in serving.ask().status


class Silent:
    """A server that takes connections and never answers; a context manager."""

    def __enter__(self) -> "Silent":
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.taken: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def _accept(self) -> None:
        while True:
            try:
                self.taken.append(self._socket.accept()[0])
            except OSError:
                return

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for each in (self._socket, *self.taken):
            each.close()


def test_an_unreachable_redis_costs_no_page(shop: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Silent() as silent:
        serving = Shop(shop, prepared_store=f"redis://:hidden@127.0.0.1:{silent.port}")
        for _ in range(5):
            assert serving.ask().status["prepared"] == "unavailable"
        assert len(silent.taken) <= 2, "after a failure the store is left alone"
        assert len(caplog.messages) == 1
        assert "hidden" not in caplog.text
        port = silent.port
    serving = Shop(shop, prepared_store=f"redis://127.0.0.1:{port}")
    assert serving.ask().status["prepared"] == "unavailable"


def test_pages_in_redis(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis") as redis:
        address = f"redis://127.0.0.1:{redis.port}/2"
        write(address)
        serving = Shop(shop, prepared_store=address, prepared_timeout_ms=1000)
        assert serving.ask().titles == list(TITLES)
        assert serving.ask("eve").status["prepared"] == "none"
        redis.stop()
        assert serving.ask().status["prepared"] == "unavailable"
        redis.start()
        assert Shop(shop, prepared_store=address, prepared_timeout_ms=1000).ask().titles == list(TITLES)
        store = open_store(address, KEYS.identity, write=True)
        assert (store.delete([]), store.delete([KEYS.hashed(b"ada"), KEYS.hashed(b"eve")])) == (0, 1)
        store.close()
        with pytest.raises(StoreError, match="another secret"):
            open_store(address, ShopperKeys(b"another").identity, write=True)


def test_what_a_store_refuses(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="can be opened, got"):
        LmdbStore(tmp_path / "nothing", write=False)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="can be opened, got"):
        LmdbStore(tmp_path / "file", write=True)
    with pytest.raises(StoreError, match="redis://HOST"):
        open_store("redis://127.0.0.1:no", KEYS.identity)
    assert shown("redis://me:secret@host:1/2") == "redis://host:1/2"
    write(tmp_path / "store")
    with pytest.raises(StoreError, match="another secret"):
        open_store(str(tmp_path / "store"), ShopperKeys(b"another").identity)
    store = LmdbStore(tmp_path / "store", write=True)
    store.put({"x": b"{}"})
    assert list(store.get_all(["y", "x"])) == [None, b"{}"]
    assert (store.delete(["y", "x"]), store.delete(["x"])) == (1, 0)
    assert list(store.get_all(["y", "x"])) == [None, None]
    assert PreparedPage.read(b"{}") is None
