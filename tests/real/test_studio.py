"""The studio on the real server: what it shows and does, and whom it refuses. One server for all of the module."""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import BUILDS
from endcap_server.apply.operations import apply
from endcap_server.apply.rollout import RolloutOptions, Share
from endcap_server.shop.store import ItemStore
from endcap_studio import trials
from endcap_studio.app import Studio
from endcap_studio.deployment import Deployment
from endcap_studio.security import Guard
from studio import EVIL, RunningStudio, best_seller, listening, studio_on
from waiting import wait_for

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
    assert re.search(r'class="reason">(Bought|Viewed|Goes with|Fits|Likely)', page.text)
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
    started = studio.http.post("/rules/preview", data={"draft": rules}, headers={"X-CSRF-Token": studio.csrf})
    job = re.findall(r"/jobs/(\w+)", started.text)[0]
    wait_for(lambda: studio.studio.jobs.get(job).state != "running", "it ends")
    ended = studio.get(f"/jobs/{job}").text
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


def test_a_generation_on_trial_beside_the_live_one(
    studio: RunningStudio, shopper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Nothing is on trial" in studio.get("/generations").text
    assert "no generation is on trial any more" in studio.post("/generations/try").text
    edited = copy_build(studio.studio.deployment.build, tmp_path / "edited")
    parameter("fusion", "margin", "0.9")(edited)
    # As limits of `endcap apply` for a machine with other work.
    limits = ("max_latency_ratio=1000", "latency_slack_ms=1000", "watch_latency_ratio=1000", "max_fallback_rise=1")
    lines = [*limits, "watch_s=1", "sample=4", "min_overlap=0", "max_drift=1"]
    (edited / "apply.toml").write_text("\n".join(lines), encoding="utf-8")
    apply(studio.studio.deployment.server, edited, print, RolloutOptions(trial=Share("split", 0.1)))

    both = studio.get("/generations", shopper=shopper).text
    assert "Generation 2 is on trial: it answers 10.0 % of the shoppers" in both
    assert "Live: generation 1" in both
    assert "On trial: generation 2" in both
    monkeypatch.setattr(trials, "SAMPLE", 4)
    assert re.search(r"[0-4] of 4</strong><span>pages change", _ended(studio, "/generations/try"))
    assert "overlap@10" in _ended(studio, "/generations/compare")

    unsure = studio.post("/generations/promote")
    assert "tick that you mean it" in unsure.text
    assert "generation 2 is live" in _ended(studio, "/generations/promote", sure="yes")
    assert "Generation 2 is live. Nothing is on trial" in studio.get("/generations").text
    assert "what generation 1 was" in _ended(studio, "/generations/rollback", sure="yes")
    assert studio.post("/generations/format", sure="yes").status_code == 400


def _ended(studio: RunningStudio, path: str, **form: str) -> str:
    """What the work that a form starts has to say in the end."""
    job = re.findall(r"/jobs/(\w+)", studio.post(path, **form).text)[0]
    wait_for(lambda: studio.studio.jobs.get(job).state != "running", "it ends")
    return studio.get(f"/jobs/{job}").text


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
