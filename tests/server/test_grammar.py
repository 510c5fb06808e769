import pytest
from endcap_server.shop import prompts
from endcap_server.shop.grammar import theme_grammar
from endcap_server.shop.prompts import ThemeDraft

xgrammar = pytest.importorskip("xgrammar")


def accepts(grammar: str, text: str) -> bool:
    """Whether a grammar accepts a whole text, by xgrammar's matcher over a byte vocabulary."""
    vocabulary = [bytes([byte]) for byte in range(256)] + [b"</s>"]
    info = xgrammar.TokenizerInfo(vocabulary, stop_token_ids=[256])
    compiled = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False).compile_grammar(
        xgrammar.Grammar.from_ebnf(grammar)
    )
    matcher = xgrammar.GrammarMatcher(compiled)
    return all(matcher.accept_token(byte) for byte in text.encode()) and matcher.accept_token(256)


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


def test_slots_are_those_of_the_shopper_text():
    grammar = theme_grammar(1, (), prompts.shopper_text([["salsa", "chips"]]))
    assert accepts(grammar, prompts.theme_completion([ThemeDraft("{1}, dips and {2}", ("{2}", "salsa dips"))]))
    for wrong in (ThemeDraft("{3}", ("{1}", "x")), ThemeDraft("{1}", ("{1}{2}", "x")), ThemeDraft("{1}", ("{0}", "x"))):
        assert not accepts(grammar, prompts.theme_completion([wrong]))
    assert not accepts(theme_grammar(1), prompts.theme_completion([ThemeDraft("{1}", ("x", "y"))]))


def test_required_titles_come_first():
    grammar = theme_grammar(2, ['Big "game" day'])
    assert accepts(grammar, page("Big game day", "Anything"))
    assert not accepts(grammar, page("Anything", "Big game day"))
    assert accepts(theme_grammar(1, ["First", "Second"]), page("First"))


def test_searches_and_campaigns_are_quoted():
    shopper = prompts.shopper_text([["salsa"]], session=["tea!?", "Maple  Syrup", "dog bed"], campaign="game day")
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
