import pytest
from endcap_server.shop import prompts
from endcap_server.shop.grammar import keyword_grammar, theme_grammar, trie_rules
from endcap_server.shop.prompts import ThemeDraft
from hypothesis import given, settings
from hypothesis import strategies as st

xgrammar = pytest.importorskip("xgrammar")

TRICKY = [
    "butter",
    "buttermilk",
    "butterproof boots",
    "waterproof",
    'a"b',
    "c\\d",
    "a",
    "ab",
    "1/2 in. pvc",
    "crème",
    "日本",
]
KEYWORD = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="|"), min_size=1, max_size=8)


def accepts(grammar: str, text: str) -> bool:
    """Whether a grammar accepts a whole text, by xgrammar's matcher over a byte vocabulary."""
    vocabulary = [bytes([byte]) for byte in range(256)] + [b"</s>"]
    info = xgrammar.TokenizerInfo(vocabulary, stop_token_ids=[256])
    compiled = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False).compile_grammar(
        xgrammar.Grammar.from_ebnf(grammar)
    )
    matcher = xgrammar.GrammarMatcher(compiled)
    return all(matcher.accept_token(byte) for byte in text.encode()) and matcher.accept_token(256)


def test_a_trie_accepts_its_texts_and_nothing_else():
    grammar = "root ::= text\n" + trie_rules("text", TRICKY)
    for text in TRICKY:
        assert accepts(grammar, text)
    for text in ["", "butterproof", "butterm", "waterproof boots", "abb", "butter boots", "milk", "c", "cd", "日"]:
        assert not accepts(grammar, text)


@settings(max_examples=40, deadline=None)
@given(st.lists(KEYWORD, min_size=2, max_size=12, unique=True), st.data())
def test_splices_of_texts_are_refused(texts, data):
    grammar = "root ::= text\n" + trie_rules("text", texts)
    assert all(accepts(grammar, text) for text in texts)
    first, second = data.draw(st.sampled_from(texts)), data.draw(st.sampled_from(texts))
    splice = first[: data.draw(st.integers(0, len(first)))] + second[data.draw(st.integers(0, len(second))) :]
    assert accepts(grammar, splice) == (splice in texts)


@pytest.mark.parametrize("count", [1, 9, 10, 37, 100])
def test_keywords_are_numbers_of_candidates(count):
    grammar = keyword_grammar([f"keyword {number}" for number in range(count)], 1)
    for number in range(1, count + 1):
        assert accepts(grammar, f" {number}")
    for text in [" 0", "1", " 01", f" {count + 1}", " 1 1", " ", f" {count}0", " 1000"]:
        assert not accepts(grammar, text)


def test_exactly_as_many_keywords_as_asked():
    grammar = keyword_grammar(["a", "b c", "d"], 2)
    assert accepts(grammar, " 1 3")
    for text in [" 1", " 1 2 3", " 1,2", " 1  2", "1 2"]:
        assert not accepts(grammar, text)


@pytest.mark.parametrize(
    ("candidates", "choose", "message"),
    [
        ([], 1, "got 0"),
        (["a"], 2, "got 2"),
        (["a"], 0, "got 0"),
        (["a|b"], 1, "usable_candidates"),
        (["a\n"], 1, "usable_candidates"),
        (["a", "a"], 1, "usable_candidates"),
    ],
)
def test_unusable_candidates(candidates, choose, message):
    with pytest.raises(ValueError, match=message):
        keyword_grammar(candidates, choose)


def test_trie_has_one_rule_for_each_branching():
    rules = trie_rules("keyword", ["milk", "milk chocolate", "milk powder", "bread"]).splitlines()
    assert rules == [
        'keyword ::= "milk" keyword-0 | "bread"',
        'keyword-0 ::= " " keyword-0-0 | ""',
        'keyword-0-0 ::= "chocolate" | "powder"',
    ]


def page(*titles: str) -> str:
    return prompts.theme_completion([ThemeDraft(title, ("puppy food", "dog beds")) for title in titles])


def test_themes_of_the_asked_number():
    grammar = theme_grammar(2)
    assert accepts(grammar, page("For your new puppy?", "Crème & café 日本"))
    assert not accepts(grammar, page("One"))
    assert not accepts(grammar, page("One", "Two", "Three"))
    assert not accepts(grammar, page("One", "Two")[:-1])
    assert accepts(theme_grammar(1), page("One"))


@pytest.mark.parametrize(
    "title",
    [
        "",
        " a",
        "a ",
        "a  b",
        'a"b',
        "a\\b",
        "a\nb",
        "a{b",
        "a,b",
        "a, b,",
        "a , b",
        "a|b",
        "x" * 40,
        "a b c d e f g h i j k",
        "a?b",
        "-a",
    ],
)
def test_titles_that_break_the_format(title):
    assert not accepts(theme_grammar(1), page(title))


@pytest.mark.parametrize(
    "concepts", [("a b",), ("a b", "c", "d", "e", "f"), ("a,b", "c"), ("a b c d e f", "c"), ("", "c")]
)
def test_concepts_that_break_the_format(concepts):
    assert not accepts(theme_grammar(1), prompts.theme_completion([ThemeDraft("Title", concepts)]))


def test_required_titles_come_first():
    grammar = theme_grammar(2, ['Big "game" day'])
    assert accepts(grammar, page("Big game day", "Anything"))
    assert not accepts(grammar, page("Anything", "Big game day"))
    assert accepts(theme_grammar(1, ["First", "Second"]), page("First"))


def test_searches_and_campaigns_are_quoted():
    shopper = prompts.shopper_text(["salsa"], session=["tea!?", "Maple  Syrup", "dog bed"], campaign="game day")
    grammar = theme_grammar(4, (), shopper)

    def answer(campaign: str, first: str, concept: str, second: str) -> str:
        return prompts.theme_completion(
            [
                ThemeDraft(campaign, ("chips", "salsa")),
                ThemeDraft(first, (concept,)),
                ThemeDraft(second, ("maple syrup", "honey")),
                ThemeDraft("More salsa", ("salsa", "chips")),
            ]
        )

    assert accepts(grammar, answer("Game day", "Still looking for dog bed?", "dog bed", "Maple syrup and more"))
    assert not accepts(grammar, answer("Games", "Still looking for dog bed?", "dog bed", "Maple syrup and more"))
    assert not accepts(grammar, answer("Game day", "Still looking for cat beds?", "dog bed", "Maple syrup and more"))
    assert not accepts(grammar, answer("Game day", "Still looking for dog bed?", "cat bed", "Maple syrup and more"))
    assert not accepts(grammar, answer("Game day", "Find your dog bed", "dog bed", "maple syrup for you"))
    # What nobody can say in plain words, and what no longer fits, is not quoted.
    assert "tea" not in grammar
    assert accepts(theme_grammar(1, (), shopper), page("Game day"))


@pytest.mark.parametrize("count", [0, prompts.MAX_PLACEMENTS + 1])
def test_number_of_themes_out_of_range(count):
    with pytest.raises(ValueError, match=f"got {count}"):
        theme_grammar(count)
