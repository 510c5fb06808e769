"""The studio on the real server: what it shows and does, and whom it refuses. One server for all of the module."""

import html
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from conftest import BUILDS
from endcap_server.apply.operations import apply
from endcap_server.apply.rollout import RolloutOptions, Share
from endcap_server.shop.store import ItemStore
from endcap_studio import generation_routes, trials
from endcap_studio.app import Studio
from endcap_studio.deployment import Deployment
from endcap_studio.security import Guard
from studio_server import EVIL, RunningStudio, best_seller, listening, studio_on
from waiting import HANGS_S, wait_for

from benchmarks.apply_sources import copy_build, parameter


@pytest.fixture(scope="module")
def studio(build: Path) -> Iterator[RunningStudio]:
    with studio_on(build, BUILDS / "catalogues/test") as running:
        yield running


@pytest.fixture(scope="module")
def shopper(studio: RunningStudio) -> str:
    """Somebody who bought much."""
    return re.findall(r"shopper=([\w-]+)", studio.get("/find", text="cat food").text)[0]


def draft(*rules: dict[str, object]) -> str:
    return json.dumps(rules)


def test_the_page_of_a_shopper_and_why(studio: RunningStudio, shopper: str) -> None:
    page = studio.get("/", shopper=shopper, q="cat food")
    assert page.status_code == 200
    for each in (f"Page of {shopper}", "Add to history", "What each stage did", "retrieval", "products in", " ms"):
        assert each in page.text
    assert re.search(r'class="reason">(Bought|Viewed|Goes with|Fits|More likely|Less likely)', page.text)
    assert f"/?shopper={shopper}&amp;add=" in page.text
    assert "No shopper “nobody” is in the events" in studio.get("/", shopper="nobody").text


def test_a_made_up_history_and_session(studio: RunningStudio) -> None:
    ids = ItemStore.open(studio.studio.deployment.build).product_ids
    page = studio.get("/", add=[ids[3], ids[5], "unknown"], session="warm socks")
    assert "Page of a made-up shopper" in page.text
    assert "answers a search of this session" in page.text
    assert page.text.count('aria-label="Remove ') == 4


def test_titles_are_text(studio: RunningStudio) -> None:
    store = ItemStore.open(studio.studio.deployment.build)
    evil = store.product_ids[best_seller(store)]
    rules = draft({"rule": "pin", "subject": f"product:{evil}"})
    asked = (
        studio.get("/", add=evil, session=EVIL, q=EVIL),
        studio.get("/page.html", add=evil),
        studio.get("/find", text="<script>"),
        studio.get("/rules", draft=rules, name=EVIL, what="ban:brand", shopper=EVIL),
        studio.get("/rules/names", what="pin:product", name="script"),
        studio.get("/nothing" + EVIL),
    )
    for answer in asked:
        assert "<script>alert" not in answer.text
        assert not re.findall(r"<script(?! src=\"/assets/htmx.min.js\")", answer.text)
    assert "&lt;script&gt;alert" in asked[3].text


def test_a_page_as_a_file(studio: RunningStudio, shopper: str) -> None:
    answer = studio.get("/page.html", shopper=shopper)
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "default-src 'none'" in answer.text
    assert f"Storefront of {shopper}" in answer.text


def test_a_rule_is_drafted_tried_published_and_taken_back(studio: RunningStudio, shopper: str) -> None:
    shown = re.findall(r'class="brand">([^<]+)<', studio.get("/", shopper=shopper).text)
    brand = max(shown, key=shown.count)
    added = studio.get("/rules", shopper=shopper, what="ban:brand", name=brand, end="2099-01-01T00:00")
    assert added.status_code == 303
    drafted = studio.get(added.headers["location"])
    assert "until 2099-01-01 00:00 UTC" in drafted.text
    assert 'class="card mark-new"' in drafted.text
    assert 'class="card mark-gone"' in drafted.text
    before, after = drafted.text.split(">After</h3>")
    assert f'class="brand">{brand}<' in before
    assert f'class="brand">{brand}<' not in after.split("Rules that stand")[0]

    rules = draft({"rule": "ban", "subject": f"brand:{brand}"})
    refused = studio.post("/rules/publish", draft=rules, author="Ada", reason="")
    assert (refused.status_code, studio.rules) == (400, [])
    assert "a rule needs the name of who sets it, and a reason" in refused.text
    assert studio.post("/rules/publish", draft=rules, author="Ada", reason="recall <7>").status_code == 303
    (rule,) = studio.rules
    assert (rule.subject, rule.author, rule.reason) == (f"brand:{brand}", "Ada", "recall <7>")
    assert f'class="brand">{brand}<' not in studio.get("/", shopper=shopper).text
    assert "recall &lt;7&gt;" in studio.get("/rules").text
    assert studio.post("/rules/take-back", rule="ban", subject=f"brand:{brand}").status_code == 303
    assert studio.rules == []
    again = studio.post("/rules/take-back", rule="ban", subject=f"brand:{brand}")
    assert "does not stand any more" in again.text


def test_every_rule_that_the_form_offers(studio: RunningStudio) -> None:
    """It can be added, and is a request's rule until it is published."""
    store = ItemStore.open(studio.studio.deployment.build)
    names = {"product": store.product_ids[7], "brand": store.brands[2], "category": store.categories[3]}
    names |= {"price": "5..40", "campaign": "autumn comfort", "title": "Rainy days"}
    form = studio.get("/rules").text
    whats = [each for each in re.findall(r'<option value="(\w+:\w+)"', form) if not each.endswith(":column")]
    assert len(whats) == 13
    location = ""
    for what in whats:
        kept = dict(each for each in httpx.QueryParams(urlsplit(location).query).items())
        answer = studio.get("/rules", **kept, what=what, name=names[what.partition(":")[2]])
        assert answer.status_code == 303, (what, answer.text)
        location = answer.headers["location"]
    assert studio.get(location).text.count("Remove from the draft") == len(whats)
    dropped = studio.get("/rules", **dict(httpx.QueryParams(urlsplit(location).query).items()), drop=0)
    assert studio.get(dropped.headers["location"]).text.count("Remove from the draft") == len(whats) - 1


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"what": "ban:brand", "name": "Nobody"}, "expected a brand of the catalogue that is served"),
        ({"what": "price:price", "name": "cheap"}, "price:LEAST..MOST"),
        ({"what": "boost:brand", "name": "x", "factor": "900"}, "from 1 to 100"),
        ({"draft": "{"}, "the draft in this address cannot be read"),
        ({"draft": draft(*[{}] * 51)}, "expected at most 50 rules in a draft"),
        ({"drop": "x"}, "drop:"),
    ],
)
def test_wrong_rules_are_answered_in_a_sentence(studio: RunningStudio, query: dict[str, str], said: str) -> None:
    answer = studio.get("/rules", **query)
    assert answer.status_code in (200, 400)
    assert said in answer.text


def test_a_draft_is_tried_on_many_shoppers(studio: RunningStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "SAMPLE", 6)
    rules = draft({"rule": "boost", "subject": "category:Pets", "factor": 20})
    ended = _ended(studio, "/rules/preview", draft=rules)
    assert re.search(r"[1-6] of 6</strong><span>pages change", ended)
    assert "median latency" in ended
    assert "Pages that change most" in ended


def test_what_is_tried_can_be_cancelled(studio: RunningStudio) -> None:
    rules = draft({"rule": "campaign", "subject": "campaign:tea"})
    started = studio.http.post("/rules/preview", data={"draft": rules}, headers={"X-CSRF-Token": studio.csrf})
    assert "of 100 shoppers" in started.text
    job = re.findall(r"/jobs/(\w+)", started.text)[0]
    wait_for(lambda: studio.studio.jobs.get(job).done > 0, "a page is compared")
    assert 'value="0"' not in studio.get(f"/jobs/{job}").text
    assert studio.post(f"/jobs/{job}/cancel").is_success
    wait_for(lambda: studio.studio.jobs.get(job).state != "running", "it ends")
    assert "Cancelled after" in studio.get(f"/jobs/{job}").text
    assert "this work is no longer known" in studio.get("/jobs/unknown").text


def test_themes_are_counted_and_decided(studio: RunningStudio, shopper: str) -> None:
    def titles() -> list[str]:
        return re.findall(r"<h3>([^<]+)</h3>\n<span class=\"source", studio.get("/", shopper=shopper).text)

    shown = titles()
    wait_for(lambda: shown[0] in studio.get("/themes", source="").text, "the page is recorded")
    listed = studio.get("/themes", source="").text
    assert all(f">{title}</a>" in listed for title in shown)
    title = html.unescape(shown[-1])
    about = studio.get("/themes/title", title=title).text
    assert "Pages that showed it" in about
    assert html.unescape(shown[0]) in html.unescape(about)

    signed = {"title": title, "author": "Ada", "reason": "complaint"}
    assert studio.post("/themes/decide", decision="rewrite", to="Long <b> nights", **signed).status_code == 303
    assert "Long &lt;b&gt; nights" in titles()
    back = studio.post("/rules/take-back", rule="rewrite", subject=f"title:{title}", **{"from": "themes"})
    assert back.headers["location"] == "/themes?done=back"
    assert titles() == shown
    assert studio.post("/themes/decide", decision="approve", **signed).status_code == 303
    assert ">approved<" in studio.get("/themes").text
    assert studio.post("/themes/decide", decision="ban", **signed).status_code == 303
    assert shown[-1] not in titles()
    assert len(studio.rules) == 2
    for rule in studio.rules:
        assert studio.post("/rules/take-back", rule=str(rule.rule), subject=rule.subject).status_code == 303
    assert studio.post("/themes/decide", decision="praise", **signed).status_code == 400
    assert "expected as other title" in studio.post("/themes/decide", decision="rewrite", to="", **signed).text


def test_a_thousand_rules(studio: RunningStudio) -> None:
    from endcap_server.shop.facts_state import FactsWriter, RuleChange
    from endcap_server.shop.standing_rules import StandingRule

    ids = ItemStore.open(studio.studio.deployment.build).product_ids
    rules = [
        StandingRule.model_validate({"rule": "bury", "subject": f"product:{ids[row]}", "factor": 0.9, "reason": "x"})
        for row in range(1000)
    ]
    writer = FactsWriter(studio.server.facts, "test")
    writer.write(rules=[RuleChange(rule) for rule in rules])
    page = studio.get("/rules")
    assert 'class="count">1000<' in page.text
    assert "and 800 older ones" in page.text
    assert ids[0] in studio.get("/rules", rule_text=ids[0]).text
    more = studio.post(
        "/rules/publish", draft=draft({"rule": "pin", "subject": f"product:{ids[3]}"}), author="A", reason="b"
    )
    assert "expected at most 1000 standing rules, got 1001" in more.text
    writer.write(rules=[RuleChange(rule, remove=True) for rule in rules])


@pytest.mark.parametrize("path", ["/rules/publish", "/rules/take-back", "/rules/preview", "/jobs/x/cancel"])
def test_what_does_not_come_from_a_page_of_this_session_is_refused(studio: RunningStudio, path: str) -> None:
    form = {"draft": draft({"rule": "pin", "subject": "product:x"}), "author": "a", "reason": "b"}
    with httpx.Client(base_url=studio.address, timeout=60) as other:
        assert other.post(path, data=form).status_code == 403
        assert other.post(path, data={**form, "csrf": studio.csrf}).status_code == 403
    headers = {"X-CSRF-Token": studio.csrf}
    for foreign in ({"Origin": "https://shop.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert studio.http.post(path, data=form, headers=headers | foreign).status_code == 403
    assert studio.http.get(path).status_code in (404, 405), "nothing is done by GET"
    assert studio.rules == []


def test_what_browsers_are_told(studio: RunningStudio) -> None:
    with httpx.Client(base_url=studio.address, timeout=60) as fresh:
        answer = fresh.get("/rules")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert fresh.get("/rules", headers={"Host": "evil.example"}).status_code == 400
        assert fresh.post("/rules/publish", content=b"x" * (1 << 21)).status_code == 413
        assert fresh.get("/docs").status_code == fresh.get("/openapi.json").status_code == 404
        assert fresh.get("/assets/..%2Fapp.py").status_code == 404
        assert fresh.get("/picture/..%2F..%2Fetc%2Fpasswd").status_code == 404
    key = studio.server.control_key
    assert key
    for path in ("/", "/rules", "/page.html"):
        answer = studio.get(path)
        assert key not in answer.text + str(answer.headers)


@pytest.fixture(scope="module")
def trial(studio: RunningStudio, tmp_path_factory: pytest.TempPathFactory) -> int:
    """A generation on trial beside the live one: with other weights, so that pages differ."""
    edited = copy_build(studio.studio.deployment.build, tmp_path_factory.mktemp("trial") / "spring weights")
    parameter("fusion", "margin", "0.9")(edited)
    # As limits of `endcap apply` for a machine with other work.
    limits = ("max_latency_ratio=1000", "latency_slack_ms=1000", "watch_latency_ratio=1000", "max_fallback_rise=1")
    lines = [*limits, "watch_s=1", "sample=4", "min_overlap=0", "max_drift=1"]
    (edited / "apply.toml").write_text("\n".join(lines), encoding="utf-8")
    apply(studio.studio.deployment.server, edited, print, RolloutOptions(trial=Share("split", 0.1)))
    return studio.studio.deployment.staged


def test_nothing_is_on_trial(studio: RunningStudio) -> None:
    assert "Nothing is on trial" in studio.get("/generations").text
    assert "no generation is on trial any more" in studio.post("/generations/try").text


def test_a_generation_on_trial_beside_the_live_one(
    studio: RunningStudio, trial: int, shopper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = studio.get("/generations", shopper=shopper).text
    assert f"Generation {trial} is on trial: it answers 10.0 % of the shoppers" in both
    assert "Live: generation 1" in both
    assert f"On trial: generation {trial}" in both
    monkeypatch.setattr(trials, "SAMPLE", 3)
    monkeypatch.setattr(generation_routes, "EQUAL_REQUESTS", 4)
    assert re.search(r"[0-3] of 3</strong><span>pages change", _ended(studio, "/generations/try"))
    assert "overlap@10" in _ended(studio, "/generations/compare")
    assert "tick that you mean it" in studio.post("/generations/promote").text
    assert studio.post("/generations/format", sure="yes").status_code == 400
    assert studio.studio.deployment.staged == trial


def _ended(studio: RunningStudio, path: str, **form: str) -> str:
    """What the work that a form starts has to say in the end."""
    job = re.findall(r"/jobs/(\w+)", studio.post(path, **form).text)[0]
    wait_for(lambda: studio.studio.jobs.get(job).state != "running", "it ends")
    return studio.get(f"/jobs/{job}").text


def test_outcomes_over_time(studio: RunningStudio) -> None:
    assert "Nothing is computed yet" in studio.get("/outcomes").text
    assert "Show the outcomes" in _ended(studio, "/outcomes/compute")
    by_source = studio.get("/outcomes").text
    assert by_source.count("<polyline") == 3
    assert by_source.count("<polygon") >= 1, "days of 45 shoppers have intervals"
    for by, name in (("theme", "For the balcony"), ("position", "position 4"), ("generation", "generation 1")):
        answer = studio.get("/outcomes", by=by, of="carts").text
        assert f'<th scope="row">{name}</th>' in answer
        assert "<polyline" in answer
    assert studio.get("/outcomes", by="weather").status_code == 400


def test_others_need_the_token(studio: RunningStudio) -> None:
    guarded = Studio(studio.studio.deployment, Guard("the token"))
    with listening(guarded) as address, httpx.Client(base_url=address, timeout=60) as http:
        assert http.get("/").headers["location"] == "/login"
        assert http.get("/find", headers={"HX-Request": "true"}).headers["hx-redirect"] == "/login"
        token = re.findall(r'name="csrf" value="(\w+)"', http.get("/login").text)[0]
        wrong = http.post("/login", data={"csrf": token, "token": "a guess"})
        assert wrong.status_code == 403
        assert "This is not the token" in wrong.text
        assert http.get("/rules").status_code == 303
        assert http.post("/login", data={"csrf": token, "token": "the token"}).headers["location"] == "/"
        assert http.get("/rules").status_code == 200


def test_a_server_that_is_away(studio: RunningStudio, tmp_path: Path) -> None:
    away = Studio(Deployment(tmp_path / "no-build"), Guard())
    with listening(away) as address, httpx.Client(base_url=address, timeout=60) as http:
        answer = http.get("/")
        assert "no such server runs here" in answer.text
        assert "endcap serve" in answer.text
        part = http.get("/find", params={"text": "tea"}, headers={"HX-Request": "true"})
        assert part.text.startswith('<div class="problem"')


def test_a_build_without_its_catalogue(studio: RunningStudio) -> None:
    deployment = Deployment(studio.studio.deployment.build, studio.server.grpc_port, Path("gone"))
    with listening(Studio(deployment, Guard())) as address, httpx.Client(base_url=address, timeout=60) as http:
        page = http.get("/")
        assert page.status_code == 200
        assert "Shoppers cannot be searched: the catalogue that it was built from is not on this machine" in page.text
        assert "Products" in http.get("/find", params={"text": "cat"}).text
        assert http.get("/rules", params={"draft": draft({"rule": "campaign", "subject": "campaign:tea"})}).is_success
    deployment.close()


# In a real browser.

SCREENSHOTS = BUILDS / "screenshots/studio"
"""Where pictures of every view are kept."""
_DRAFT = draft(
    {"rule": "boost", "subject": "category:Pets", "factor": 3},
    {"rule": "ban", "subject": "brand:Penny Orchard", "end": 4_070_908_800},
)
VIEWS = {
    "page": "/?shopper={shopper}&q=cat+food",
    "rules": f"/rules?shopper={{shopper}}&draft={quote(_DRAFT)}",
    "themes": "/themes?source=",
    "title": "/themes/title?title=For+the+balcony",
    "generations": "/generations?shopper={shopper}",
    "outcomes": "/outcomes",
}


OF_PHONES = ("page", "rules", "outcomes")
"""Views that are looked at on a phone, too, without --long."""
AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}


@dataclass
class Seen:
    """What a browser has done: messages of its console, and addresses it has asked for."""

    browser: Any
    messages: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)

    def page(self, studio: RunningStudio, *, phone: bool = False) -> Any:
        """A new window: a desktop's in light, or a phone's in dark."""
        size = {"width": 390, "height": 844} if phone else {"width": 1440, "height": 1150}
        context = self.browser.new_context(
            base_url=studio.address, viewport=size, color_scheme="dark" if phone else "light", reduced_motion="reduce"
        )
        context.set_default_timeout(1000 * HANGS_S)
        context.on("console", lambda message: self.messages.append(f"{message.type}: {message.text}"))
        context.on("weberror", lambda error: self.messages.append(f"error: {error.error}"))
        context.on("request", lambda request: self.addresses.append(request.url))
        return context.new_page()


@pytest.fixture(scope="module")
def browser(studio: RunningStudio) -> Iterator[Seen]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        # As root there is no sandbox; only pages of this test are opened.
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield Seen(running)
        running.close()


def test_a_person_finds_a_shopper_and_makes_up_a_history(studio: RunningStudio, browser: Seen) -> None:
    page = browser.page(studio)
    page.goto("/")
    page.get_by_label("Find by what they bought").fill("cat food")
    page.get_by_role("region").or_(page.locator("#hits")).get_by_role("link", name="shopper-").first.click()
    page.get_by_role("heading", name="Page of shopper-").wait_for()
    page.get_by_role("link", name="New shopper").click()
    page.get_by_role("link", name="to the history").nth(1).click()
    page.get_by_role("heading", name="Page of a made-up shopper").wait_for()
    page.get_by_label("Searched just now").fill("warm socks")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_text("answers a search of this session").first.wait_for()
    page.get_by_label("As this shopper").fill("notebook")
    page.get_by_role("button", name="Search").click()
    page.get_by_text("put it into the session").wait_for()
    page.get_by_text("Signals").first.click()
    assert page.get_by_text("relevance").first.is_visible()
    page.context.close()


def test_a_rule_by_keyboard_alone(studio: RunningStudio, browser: Seen, store: ItemStore) -> None:
    page = browser.page(studio)
    page.goto("/rules")

    def tab_to(*names: str) -> None:
        """Go on with the tab key until the focus is on one of these, by id or text."""
        for _ in range(120):
            page.keyboard.press("Tab")
            said = page.evaluate("[document.activeElement.id, document.activeElement.textContent.trim()]")
            if set(said) & set(names):
                return
        raise AssertionError(f"the tab key never came to {names}")

    tab_to("what")
    page.keyboard.type("Ban a brand")
    tab_to("name")
    page.keyboard.type(store.brands[3])
    tab_to("Add to the draft")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="before and after").wait_for()
    for name, text in (("author", "Ada"), ("reason", "a recall")):
        tab_to(name)
        page.keyboard.type(text)
    page.keyboard.press("Enter")
    page.get_by_text("Published. The rules stand.").wait_for()
    assert [(rule.subject, rule.author) for rule in studio.rules] == [(f"brand:{store.brands[3]}", "Ada")]
    tab_to("Take back")
    page.keyboard.press("Enter")
    page.get_by_text("Taken back.").wait_for()
    assert studio.rules == []
    page.context.close()


def test_what_is_tried_shows_progress_and_is_cancelled(studio: RunningStudio, browser: Seen) -> None:
    page = browser.page(studio)
    page.goto("/rules?draft=" + quote(draft({"rule": "price", "subject": "price:5..20"})))
    page.get_by_role("button", name="Try on 100 shoppers").click()
    page.get_by_role("progressbar").wait_for()
    page.get_by_text(re.compile(r"[1-9]\d* of 100 shoppers")).wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled after").wait_for()
    page.context.close()


def test_a_title_is_banned(studio: RunningStudio, browser: Seen) -> None:
    page = browser.page(studio)
    page.goto("/themes?source=")
    page.get_by_role("link", name="Slow Sunday breakfasts").click()
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Reason").fill("no breakfasts today")
    page.get_by_role("button", name="Ban").click()
    page.get_by_text("Banned. No page shows this title any more.").wait_for()
    page.get_by_role("button", name="Take back: ban Slow Sunday breakfasts").click()
    page.get_by_text("Taken back.").wait_for()
    assert studio.rules == []
    page.context.close()


def test_every_view_has_no_fault_that_hinders_people(
    pytestconfig: pytest.Config, studio: RunningStudio, browser: Seen, shopper: str, trial: int
) -> None:
    """By axe-core, in light on a desktop and in dark on a phone; pictures are kept."""
    from axe_playwright_python.sync_playwright import Axe

    everything, faults = pytestconfig.getoption("--long"), []
    for phone in (False, True):
        page = browser.page(studio, phone=phone)
        for name, address in VIEWS.items():
            if phone and name not in OF_PHONES and not everything:
                continue
            page.goto(address.format(shopper=shopper))
            page.screenshot(path=SCREENSHOTS / f"{name}-{'phone-dark' if phone else 'desktop'}.png")
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= (390 if phone else 1440), f"{name}: nothing needs scrolling sideways"
            for fault in Axe().run(page, options=AXE).response["violations"]:
                if fault["impact"] in ("serious", "critical"):
                    faults.append((name, phone, fault["id"], [node["html"][:200] for node in fault["nodes"][:3]]))
        page.context.close()
    assert faults == []


def test_a_generation_is_made_live(studio: RunningStudio, browser: Seen, trial: int) -> None:
    page = browser.page(studio)
    page.goto("/generations")
    act = page.locator("form", has=page.get_by_role("button", name=f"Make generation {trial} live"))
    act.get_by_label("I mean it").check()
    act.get_by_role("button").click()
    page.get_by_text(f"generation {trial} is live").wait_for()
    page.get_by_role("link", name="Show the generations").click()
    page.get_by_text(f"Generation {trial} is live. Nothing is on trial").wait_for()
    page.context.close()


def test_the_browser_asked_nobody_else_and_had_no_errors(studio: RunningStudio, browser: Seen) -> None:
    assert browser.addresses
    assert {urlsplit(address).netloc for address in browser.addresses} == {urlsplit(studio.address).netloc}
    assert browser.messages == []


@pytest.mark.long
def test_a_generation_is_taken_back(studio: RunningStudio) -> None:
    assert "what generation 1 was" in _ended(studio, "/generations/rollback", sure="yes")
