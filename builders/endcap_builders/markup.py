"""Converts HTML to plain text: tags are removed, entities become characters, "<12in & >6in" does not change.

``html.parser`` reads any letter after "<" as a tag ("sizes <L & >S" loses its text). Here, only names of HTML elements
and names with a hyphen (custom elements) are tags, with valid attributes.
"""

import html
import re
from html.entities import html5

import polars as pl

_ELEMENTS = (
    "a abbr acronym address applet area article aside audio b base basefont bdi bdo big blink blockquote body br "
    "button canvas caption center cite code col colgroup data datalist dd del details dfn dialog dir div dl dt em "
    "embed fieldset figcaption figure font footer form frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html "
    "i iframe img input ins kbd label legend li link main map mark marquee menu meta meter nav nobr noframes "
    "noscript object ol optgroup option output p param picture pre progress q rp rt ruby s samp script search "
    "section select slot small source span strike strong style sub summary sup svg table tbody td template textarea "
    "tfoot th thead time title tr track tt u ul var video wbr"
)
_NAME = rf"(?:(?:{'|'.join(_ELEMENTS.split())})(?![\w-])|[a-z][a-z0-9]*(?:-[a-z0-9]+)+)"
# An attribute has a value, or is one of HTML's boolean attributes: "a<b and c>d" has no tag.
_FLAGS = (
    "allowfullscreen async autofocus autoplay checked compact controls default defer disabled hidden inert ismap "
    "itemscope loop multiple muted nohref noshade novalidate nowrap open readonly required reversed selected"
)
_VALUE = r"""\s*=\s*(?:"[^"<]*"|'[^'<]*'|[^\s"'=<>`]+)"""
_ATTRIBUTE = rf"\s+(?:[a-z_:@][\w:.@-]*{_VALUE}|(?:{'|'.join(_FLAGS.split())})(?![\w-]))"
_TAG = re.compile(rf"</?{_NAME}(?:{_ATTRIBUTE})*\s*/?>", re.IGNORECASE)
# No text: comments, declarations, and the content of scripts and styles.
_NO_TEXT = re.compile(r"<!--.*?-->|<!doctype[^>]*>|<(script|style)\b[^>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
# Inline elements: "<b>G</b>reen" is one word. All others end a word.
_INLINE = re.compile(
    r"</?(?:a|abbr|b|bdi|bdo|big|cite|code|em|font|i|ins|del|kbd|mark|q|s|small|span|strike|strong|sub|sup|tt|u|var|wbr)"
    r"(?![\w-])",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]*);")


def plain_text(text: str) -> str:
    """``text`` without tags and entities, and with single spaces.

    Markup that was escaped twice ("&lt;p&gt;", "&amp;amp;") is removed, too. An entity is one of HTML5's with a
    semicolon; "AT&T" and "R&D&copy" do not change.
    """
    while "<" in text or "&" in text:
        plain = _without_entities(_TAG.sub(_gap, _NO_TEXT.sub(" ", text)))
        if plain == text:
            break
        text = plain
    return " ".join(text.split())


def has_entity(text: str) -> bool:
    """Whether ``text`` contains an HTML entity."""
    return "&" in text and _without_entities(text) != text


def has_tag(text: str) -> bool:
    """Whether ``text`` contains an HTML tag."""
    return "<" in text and (_TAG.search(text) or _NO_TEXT.search(text)) is not None


def plain_texts(column: pl.Series) -> pl.Series:
    """``plain_text`` of each text of a String column; null becomes ""."""
    return pl.Series(column.name, [plain_text(text) for text in column.fill_null("")], dtype=pl.String)


def _gap(tag: re.Match[str]) -> str:
    return "" if _INLINE.match(tag.group()) else " "


def _without_entities(text: str) -> str:
    return _ENTITY.sub(_character, text)


def _character(entity: re.Match[str]) -> str:
    name = entity.group()[1:]
    # Programs that capitalise titles change "&reg;" to "&Reg;".
    for known in (name, name.lower()):
        if known[0] == "#" or known in html5:
            return html.unescape(f"&{known}")
    return entity.group()
