"""The grammar (EBNF, as xgrammar reads it) that makes every answer of LLM 1 well-formed."""

from collections.abc import Sequence

from endcap_server.shop.prompts import MAX_PLACEMENTS, TITLE_CHARACTERS, clean, liked_kinds, quoted_texts
from endcap_server.shop.slots import MAX_SLOTS

# Letters of common scripts. Ranges, because EBNF character classes know no Unicode properties.
_LETTERS = r"a-zA-Z\u00c0-\u024f\u0370-\u03ff\u0400-\u04ff\u0590-\u05ff\u0620-\u064a\u0900-\u097f\u0e01-\u0e3a"
_TITLE_WORDS = 9
_CONCEPTS = '","concepts":["'
_IDEOGRAPHS = r"\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3"
_TAIL = f"{_LETTERS}{_IDEOGRAPHS}0-9&'%.+/-"
# Titles and concepts share one word rule: a grammar with fewer states compiles faster, once per request.
_SHARED_RULES = f"""\
title ::= part (","? " " part){{0,{_TITLE_WORDS - 1}}} [?!]?
word ::= start tail{{0,19}} | "&"
start ::= [{_LETTERS}{_IDEOGRAPHS}0-9]
tail ::= [{_TAIL}]
"""


def theme_grammar(count: int, titles: Sequence[str] = (), shopper: str = "") -> str:
    """Make the grammar of LLM 1's answer: a compact JSON list of exactly `count` themes (1..20), 2..4 concepts each.

    Small students misquote, so the grammar contains the texts that the page must quote, in this order: the required
    titles; the campaign of the shopper text as a title; a theme for each of the newest searches, with the search in the
    title and as the first concept. The LLM writes everything else. It can name the kinds of the shopper text by slots.

    Args:
        count: number of themes.
        titles: titles of the first themes (the required themes of the rules).
        shopper: the shopper text of the prompt, for its campaign, searches and kinds.

    Returns:
        EBNF with the start rule ``root``.
    """
    if not 1 <= count <= MAX_PLACEMENTS:
        raise ValueError(f"themes: expected 1..{MAX_PLACEMENTS}, got {count}")
    campaign, searches = quoted_texts(shopper)
    given = (*titles, campaign[:1].upper() + campaign[1:])
    required = [title for title in (clean(text, TITLE_CHARACTERS) for text in given) if title]
    items = [f"{_literal(title)} rest" for title in required]
    items += [f"{_quoting_title(search)} {_literal(_CONCEPTS + search)} more" for search in searches]
    items = items[:count]
    free = count - len(items)
    if free:
        items.append("title rest" + (f' (",{{\\"title\\":\\"" title rest){{{free - 1}}}' if free > 1 else ""))
    between = ' ",{\\"title\\":\\"" '
    return (
        f'root ::= "[{{\\"title\\":\\"" {between.join(items)} "]"\n'
        f'rest ::= {_literal(_CONCEPTS)} concept "\\",\\"" concept ("\\",\\"" concept){{0,2}} "\\"]}}"\n'
        'more ::= ("\\",\\"" concept){0,3} "\\"]}"\n'
        f"{_slot_rules(min(MAX_SLOTS, len(liked_kinds(shopper))))}"
        f"{_SHARED_RULES}"
    )


def _slot_rules(count: int) -> str:
    """Write the rules of a title's parts and of a concept: words, or one of `count` slots."""
    if not count:
        return 'part ::= word\nconcept ::= word (" " word){0,4}\n'
    return f'part ::= word | slot\nconcept ::= slot | word (" " word){{0,4}}\nslot ::= "{{" [1-{count}] "}}"\n'


def _quoting_title(search: str) -> str:
    """Write a title around a search, or with the search at its beginning; at most nine words in all."""
    free = max(1, _TITLE_WORDS - len(search.split()))
    before = min(4, free)
    around = f'(word " "){{1,{before}}} {_literal(search)} (" " word){{0,{min(4, free - before)}}}'
    first = f'{_literal(search[:1].upper() + search[1:])} (" " word){{0,{before}}}'
    return f"({around} | {first}) [?!]?"


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
