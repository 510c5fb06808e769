"""The teachers: our merchandiser on tiny shops; the OpenAI teacher against a real HTTP server that speaks the API."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import xgrammar
from chat_endpoint import ChatEndpoint
from endcap_builders.catalogue import Catalogue
from endcap_builders.chat import OpenAISettings
from endcap_builders.llm.examples import Example
from endcap_builders.merchandising.examples import keyword_examples, keyword_requests, theme_examples, theme_products
from endcap_builders.merchandising.lexicon import DEFAULT_LEXICON, read_lexicon
from endcap_builders.merchandising.merchandiser import Merchandiser
from endcap_builders.merchandising.openai_teacher import OpenAITeacher
from endcap_builders.merchandising.profiles import ProfileSampler
from endcap_builders.merchandising.quality import prune_keywords, prune_page
from endcap_builders.merchandising.statistics import SEASONS, compute_statistics
from endcap_builders.merchandising.teacher import KeywordRequest, Profile, ThemeTask
from endcap_builders.merchandising.topics import presentable
from endcap_builders.step import BuildError
from endcap_server.shop import prompts
from endcap_server.shop.grammar import theme_grammar
from endcap_server.shop.kind_lists import kind_lists
from endcap_server.shop.prompts import ThemeDraft
from endcap_server.shop.store import ItemStore

from server import tiny_shop


def written_under(example: Example, placements: int) -> bool:
    """Whether a student could write the example under the grammar of its prompt."""
    info = xgrammar.TokenizerInfo([bytes([byte]) for byte in range(256)] + [b"</s>"], stop_token_ids=[256])
    grammar = xgrammar.Grammar.from_ebnf(theme_grammar(placements, (), example.prompt.split("\n")[0]))
    matcher = xgrammar.GrammarMatcher(xgrammar.GrammarCompiler(info, max_threads=1).compile_grammar(grammar))
    return all(matcher.accept_token(byte) for byte in example.completion.encode()) and matcher.accept_token(256)


def events_of(store: ItemStore) -> pl.DataFrame:
    """Shoppers who buy lamps with rugs in January, seeds with tools in April, week after week."""
    rows = []
    for shopper in range(60):
        winter = shopper % 2 == 0
        first, second = (0, 8) if winter else (16, 24)
        day = datetime(2025, 1 if winter else 4, 7, tzinfo=UTC)
        for week in range(3):
            for start in (first, second):
                row = start + (shopper + week) % 8
                rows.append((f"u{shopper:02}", store.product_ids[row], day + timedelta(weeks=week), "purchase"))
    frame = pl.DataFrame(rows, schema=["user_id", "product_id", "timestamp", "type"], orient="row")
    return frame.with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC"))).sort("user_id", "timestamp")


def shop(build: Path, *, categories: bool = True, events: bool = True) -> tuple[Merchandiser, Catalogue]:
    store = ItemStore.open(tiny_shop.build_shop(build, categories=categories))
    catalogue = Catalogue(build, pl.DataFrame(), events_of(store) if events else None, None, None, "digest")
    lexicon = read_lexicon()
    statistics = compute_statistics(catalogue, store, lexicon)
    return Merchandiser(
        statistics, lexicon, lambda texts: np.stack([tiny_shop.embed(text) for text in texts])
    ), catalogue


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Merchandiser, Catalogue]]:
    return {
        "full": shop(tmp_path_factory.mktemp("full")),
        "no events": shop(tmp_path_factory.mktemp("events"), events=False),
        "titles only": shop(tmp_path_factory.mktemp("titles"), categories=False, events=False),
    }


@pytest.fixture(scope="module")
def full(shops) -> Merchandiser:
    return shops["full"][0]


def test_statistics_find_what_is_bought_together_and_when(full):
    statistics = full.statistics
    names = [topic.name for topic in statistics.topics.topics]
    assert sorted(names) == ["drinks", "games", "lamps", "puzzles", "rugs", "seeds", "snacks", "tools"]
    assert [names[topic] for topic in statistics.complements(names.index("lamps"), 1)] == ["rugs"]
    assert {names[topic] for topic in statistics.of_season("spring", 2)} == {"seeds", "tools"}
    assert {names[topic] for topic in statistics.popular(4)} == {"lamps", "rugs", "seeds", "tools"}


def test_concepts_are_what_shoppers_type_for_a_topic(full):
    topics = {topic.name: topic for topic in full.statistics.topics.topics}
    assert set(topics["lamps"].concepts) == {"desk lamp", "floor lamp", "reading lamp", "lamp shade"}
    assert topics["lamps"].parent == "home"


def test_a_page_is_about_its_shopper(full):
    request = ThemeTask(Profile(likes=(("lamps", "tools"),), season="winter"), 4)
    (page,) = full.themes([request])
    concepts = {text for theme in page for text in theme.concepts}
    assert len(page) == 4
    assert concepts & {"desk lamp", "floor lamp", "reading lamp", "lamp shade"}
    assert concepts & {"wool rug", "round rug", "hallway rug", "rug pad"}


def test_searches_and_campaigns_come_first(full):
    profile = Profile(likes=(("lamps",),), session=("wool rug",), campaign="Green tea week")
    (page,) = full.themes([ThemeTask(profile, 3)])
    assert page[0].title == "Green tea week"
    assert "green tea" in page[0].concepts
    assert "wool rug" in page[1].title.lower()
    assert page[1].concepts == ("wool rug",)


def test_the_same_shopper_gets_the_same_page(full):
    request = ThemeTask(Profile(likes=(("seeds",),), season="spring"), 5)
    assert next(full.themes([request])) == next(full.themes([request]))


@pytest.mark.parametrize("name", ["full", "no events", "titles only"])
def test_every_catalogue_gives_examples_that_pass_the_checks(shops, name):
    merchandiser, catalogue = shops[name]
    rng = random.Random(4)
    sampler = ProfileSampler(catalogue, merchandiser.statistics, merchandiser.lexicon, rng)
    counts: Counter[str] = Counter()
    requests = [sampler.draw() for _ in range(60)]
    made = list(theme_examples(merchandiser, requests, counts))
    # Only for a shopper of whom nothing is known may a shop without categories and events have no page.
    known = [request for request in requests if not request.profile.text().startswith(prompts.NEW_SHOPPER)]
    assert len(list(theme_examples(merchandiser, known, Counter()))) == len(known) > 40
    assert len(made) == len(requests) if name != "titles only" else len(made) >= len(known)
    for example, page in made:
        assert prompts.parse_themes(example.completion, example.prompt.split("\n")[0]) == page
        assert example.prompt.endswith(f"\n{len(page)} themes\n")
    strays = [example for example, page in made if not written_under(example, len(page))]
    assert not strays
    themes = list(dict.fromkeys(theme for _, page in made for theme in page))
    asked = keyword_requests(merchandiser, themes, 3, 12, rng)
    answered = list(keyword_examples(merchandiser, asked, counts))
    assert len(answered) >= len(themes) * 0.8
    for example, choice in answered:
        listed = prompts.listed_candidates(example.prompt)
        assert tuple(listed[number] for number in example.order) == choice.keywords
    fit = theme_products(merchandiser, [choice for _, choice in answered], rng)
    assert fit.columns == ["text", "row", "product_id", "relevance"]
    assert fit["relevance"].is_between(0, 1).all()
    assert {0.0, 1.0} <= set(fit["relevance"].to_list())


def test_titles_are_not_one_pattern(shops):
    merchandiser, catalogue = shops["full"]
    sampler = ProfileSampler(catalogue, merchandiser.statistics, merchandiser.lexicon, random.Random(1))
    pages = list(merchandiser.themes([sampler.draw() for _ in range(100)]))
    patterns = Counter(theme.title.split()[0] for page in pages for theme in page)
    assert len(patterns) >= 15
    assert all(len({theme.title for theme in page}) == len(page) for page in pages)


def test_keywords_stay_on_the_theme(full):
    theme = ThemeDraft("Light up the evening", ("desk lamp", "floor lamp"))
    candidates = ("desk lamp", "wool rug", "floor lamp", "green tea", "reading lamp", "lamp shade", "dice game")
    (chosen,) = full.choose_keywords([KeywordRequest(theme, candidates, 4)])
    assert set(chosen) == {"desk lamp", "floor lamp", "reading lamp", "lamp shade"}


def test_fit_grades_products_of_the_theme_higher(full):
    theme = ThemeDraft("Light up the evening", ("desk lamp", "floor lamp"))
    (example,) = keyword_examples(full, keyword_requests(full, [theme], 3, 12, random.Random(0)), Counter())
    fit = theme_products(full, [example[1]], random.Random(0))
    lamps = fit.filter(pl.col("row") < 8)["relevance"]
    others = fit.filter(pl.col("row") >= 8)["relevance"]
    assert lamps.min() >= 0.6
    assert others.max() < 0.3


def test_profiles_come_from_histories_and_new_shoppers(shops):
    merchandiser, catalogue = shops["full"]
    sampler = ProfileSampler(catalogue, merchandiser.statistics, merchandiser.lexicon, random.Random(2))
    drawn = [sampler.draw() for _ in range(300)]
    assert any(not request.profile.bought for request in drawn)
    assert any(request.profile.new for request in drawn)
    assert all(name in request.profile.text() for request in drawn for name in request.profile.new)
    assert any(request.profile.campaign for request in drawn)
    assert any(request.profile.session for request in drawn)
    assert {request.profile.season for request in drawn} == {*SEASONS, ""}
    assert {request.placements for request in drawn} >= {3, 4, 5, 6}


def test_quality_checks_say_why():
    counts: Counter[str] = Counter()
    page = [
        ThemeDraft("Taco night", ("Taco Shells", "salsa")),
        ThemeDraft("Taco nights", ("rice", "beans")),
        ThemeDraft("More salsa", ("salsa", "taco shells")),
        ThemeDraft("Abc", ("a b", "c d")),
        ThemeDraft("x" * 70, ("rice", "beans")),
        ThemeDraft("One concept", ("rice",)),
        ThemeDraft("Strange @ title", ("rice", "beans")),
    ]
    kept = prune_page(page, counts)
    assert [theme.title for theme in kept] == ["Taco night"]
    assert kept[0].concepts == ("taco shells", "salsa")
    assert counts == {
        "duplicate title": 1,
        "duplicate concepts": 1,
        "title length": 2,
        "too few concepts": 1,
        "title characters": 1,
    }
    assert prune_keywords(["a", "x", "a", "b"], ["a", "b", "c"], 2, counts) == ["a", "b"]
    assert prune_keywords(["a", "x"], ["a", "b", "c"], 2, counts) == []


def test_presentable_texts_are_a_few_plain_words():
    assert presentable("1/2 pipe")
    assert not presentable("a,b c")
    assert not presentable("six words are far too many")


def test_what_lasts_is_not_restocked(tmp_path):
    """Lamps are bought once by each shopper, tools again and again: only the events say so."""
    store = ItemStore.open(tiny_shop.build_shop(tmp_path))
    day = datetime(2025, 1, 7, tzinfo=UTC)
    rows = [
        (f"u{shopper}", store.product_ids[shopper % 8], day + timedelta(days=shopper), "purchase")
        for shopper in range(40)
    ]
    rows += [
        (
            f"u{shopper}",
            store.product_ids[16 + (shopper + week) % 8],
            day + timedelta(days=shopper, weeks=week),
            "purchase",
        )
        for shopper in range(40)
        for week in range(6)
    ]
    events = pl.DataFrame(rows, schema=["user_id", "product_id", "timestamp", "type"], orient="row")
    events = events.with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC"))).sort("user_id", "timestamp")
    statistics = compute_statistics(
        Catalogue(tmp_path, pl.DataFrame(), events, None, None, "digest"), store, read_lexicon()
    )
    names = [topic.name for topic in statistics.topics.topics]
    assert {name for name, again in zip(names, statistics.restocked, strict=True) if again} == {"tools"}
    merchandiser = Merchandiser(statistics, read_lexicon(), lambda texts: np.stack([tiny_shop.embed(t) for t in texts]))
    (page,) = merchandiser.themes([ThemeTask(Profile(likes=(("lamps", "tools"),), due=("tools",)), 4)])
    titles = {theme.title for theme in page}
    assert "Time for more tools" in titles
    restock = [title.format(topic="lamps", Topic="Lamps") for title in read_lexicon().titles.restock]
    assert not titles & set(restock)


def test_themes_list_what_a_shopper_buys(full):
    kinds = ("lamps", "seeds", "rugs", "tools")
    statistics = full.statistics
    names = [topic.name for topic in statistics.topics.topics]
    lists = kind_lists([names.index(kind) for kind in kinds], [], names, statistics.affinity)
    likes = tuple(tuple(names[topic] for topic in topics) for topics in lists)
    # Lamps and rugs are bought together, and so are seeds and tools.
    assert likes == (("lamps", "rugs"), ("seeds", "tools"))
    (page,) = full.themes([ThemeTask(Profile(likes=likes, new=frozenset(("rugs", "tools"))), 4)])
    named = [{kind for kind in kinds if kind in theme.title.lower()} for theme in page]
    assert named[:2] == [{"lamps", "rugs"}, {"seeds", "tools"}]
    assert [set(theme.concepts) for theme in page[:2]] == named[:2]


def test_a_title_lists_three_kinds_with_commas(full):
    counts: Counter[str] = Counter()
    (kept,) = prune_page([ThemeDraft("Milk, eggs and bread", ("milk", "eggs", "bread"))], counts)
    assert kept.title == "Milk, eggs and bread"
    example = Example(prompts.theme_prompt("likes:milk", 1), prompts.theme_completion([kept]))
    assert written_under(example, 1)


def test_every_title_of_the_lexicon_can_be_written():
    lexicon = read_lexicon()
    values = dict.fromkeys(("topic", "other", "third", "query", "attribute", "season"), "milk") | {"brand": "Acme"}
    values |= {key.capitalize(): value.capitalize() for key, value in values.items()}
    titles = [pattern.format(**values) for kind in lexicon.titles.model_dump().values() for pattern in kind]
    counts: Counter[str] = Counter()
    for title in titles:
        assert prune_page([ThemeDraft(title, ("milk", "bread"))], counts), (title, counts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + "\n[broken", "TOML"),
        (lambda text: text.replace("[titles]", "[title]"), "titles"),
        (lambda text: text + '\nsurprise = ["A {topic}"]\n', "surprise"),
    ],
)
def test_a_broken_lexicon_is_named(tmp_path, change: Callable[[str], str], message):
    path = tmp_path / "mine.toml"
    path.write_text(change(DEFAULT_LEXICON.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        read_lexicon(path)
    assert "mine.toml" in str(caught.value)


def answered(body: dict[str, Any]) -> str:
    if body["response_format"]["json_schema"]["name"] == "page":
        count = int(body["messages"][1]["content"].rsplit(" ", 1)[1])
        themes = [{"title": f"Theme {number}", "concepts": [f"thing {number}", "lamp"]} for number in range(count)]
        return json.dumps({"themes": themes})
    return json.dumps({"keywords": body["messages"][1]["content"].split("\n")[-2:]})


@pytest.fixture
def endpoint(monkeypatch) -> Iterator[ChatEndpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    running = ChatEndpoint(answered)
    yield running
    running.close()


def openai_teacher(endpoint: ChatEndpoint, full: Merchandiser, path: Path, **settings: Any) -> OpenAITeacher:
    options = OpenAISettings(base_url=endpoint.url, model="m", input_price=1.0, output_price=10.0, **settings)
    return OpenAITeacher(options, full.statistics, path, lambda text: None)


REQUESTS = [ThemeTask(Profile(likes=(("lamps",),), season=season), 2) for season in SEASONS]


def test_openai_teacher_writes_themes_and_keywords(endpoint, full, tmp_path):
    teacher = openai_teacher(endpoint, full, tmp_path / "answers.jsonl")
    pages = list(teacher.themes(REQUESTS))
    assert pages == [[ThemeDraft("Theme 0", ("thing 0", "lamp")), ThemeDraft("Theme 1", ("thing 1", "lamp"))]] * 4
    request = KeywordRequest(ThemeDraft("Light", ("desk lamp", "shade")), ("desk lamp", "floor lamp", "rug"), 2)
    assert list(teacher.choose_keywords([request])) == [["floor lamp", "rug"]]
    path, key, body = endpoint.requests[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert body["response_format"]["json_schema"]["strict"] is True
    assert "lamps" in body["messages"][0]["content"]
    assert "likes:{1}lamps" in body["messages"][1]["content"]
    assert teacher.figures()["asked"] == 5
    assert teacher.cost == pytest.approx(5 * (1000 * 1.0 + 100 * 10.0) / 1e6)


def test_openai_teacher_retries_what_passes(endpoint, full, tmp_path):
    endpoint.script[:] = [429, 500, 503]
    teacher = openai_teacher(endpoint, full, tmp_path / "answers.jsonl", concurrency=1)
    assert all(len(page) == 2 for page in teacher.themes(REQUESTS))
    assert len(endpoint.requests) == 7


def test_openai_teacher_stops_at_what_does_not_pass_and_resumes(endpoint, full, tmp_path):
    path = tmp_path / "answers.jsonl"
    good = answered({"response_format": {"json_schema": {"name": "page"}}, "messages": [{}, {"content": "x 2"}]})
    endpoint.script[:] = [good, good, 401]
    teacher = openai_teacher(endpoint, full, path, concurrency=1)
    with pytest.raises(BuildError, match="2 answers are kept"):
        list(teacher.themes(REQUESTS))
    endpoint.requests.clear()
    endpoint.script.clear()
    # As an interrupted build leaves it: the last line is cut.
    path.write_text(path.read_text(encoding="utf-8") + '{"key": "12', encoding="utf-8")
    again = openai_teacher(endpoint, full, path)
    assert len(list(again.themes(REQUESTS))) == 4
    assert len(endpoint.requests) == 2
    assert again.figures()["resumed"] == 2
    assert len(list(openai_teacher(endpoint, full, path).themes(REQUESTS))) == 4
    assert len(endpoint.requests) == 2


def test_openai_teacher_asks_again_after_malformed_answers(endpoint, full, tmp_path):
    endpoint.script[:] = ["no JSON", '{"themes": [{"title": 3}]}']
    teacher = openai_teacher(endpoint, full, tmp_path / "answers.jsonl", concurrency=1, malformed_retries=2)
    assert [len(page) for page in teacher.themes(REQUESTS[:1])] == [2]
    endpoint.script[:] = ["no JSON"] * 2
    teacher = openai_teacher(endpoint, full, tmp_path / "others.jsonl", concurrency=1, malformed_retries=1)
    assert [len(page) for page in teacher.themes(REQUESTS[:2])] == [0, 2]
    assert teacher.figures()["malformed"] == 2


def test_openai_teacher_without_a_key(endpoint, full, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(BuildError, match="OPENAI_API_KEY"):
        openai_teacher(endpoint, full, tmp_path / "answers.jsonl")
