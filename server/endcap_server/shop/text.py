"""Normalises every text from outside: queries, sessions, rules, and the catalogue when it is built."""

import unicodedata

_JOINERS = frozenset("\u200c\u200d")
"""Zero-width (non-)joiners: they shape letters of some scripts and emoji."""
_DROPPED = ("Cc", "Cf", "Zl", "Zp")
_MARKS = dict.fromkeys(map(ord, "\u2122\u2120\u00ae\u00a9"), " ")
_FRACTIONS = {
    code: " " + unicodedata.normalize("NFKC", chr(code)).replace("\u2044", "/")
    for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F), 0x2189)
}
# NFKC alone would convert "Acme\u2122" to the word "AcmeTM", and "1\u00bd" to "11/2".
_BEFORE_NFKC = _MARKS | _FRACTIONS


def plain_text(text: str) -> str:
    """A text on one line: compatibility characters folded (NFKC), no control or invisible characters, single spaces.

    Full-width letters and digits, ligatures and presentation forms become the characters that they show. Trademark
    signs are left out, and vulgar fractions written out ("1\u00bd" becomes "1 1/2").
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    folded = unicodedata.normalize("NFKC", text.translate(_BEFORE_NFKC))
    kept = (char if char in _JOINERS or unicodedata.category(char) not in _DROPPED else " " for char in folded)
    return " ".join("".join(kept).split())


def folded_name(name: str) -> str:
    """A name in the form in which names are compared: `plain_text`, without case."""
    return plain_text(name).casefold()
