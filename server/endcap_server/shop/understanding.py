"""Whether the models can understand a search text.

The default models were trained on English text, and then on the catalogue's titles. Their tokenizer splits other
scripts into single letters and does not know emoji, so the relevance for such a text is not meaningful.
"""

import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from endcap_server.shop.store import ItemStore
from endcap_server.shop.title_checks import ScriptCheck, script_of

UNDERSTOOD_SHARE = 0.5
"""Least share of known characters in a text that is understood."""


class NotUnderstood(StrEnum):
    """Why a search text is not understood."""

    NO_WORDS = "no_words"
    """It has neither letters nor digits: emoji, punctuation, other symbols."""
    UNKNOWN_SCRIPT = "unknown_script"
    """Most of its characters are letters of scripts that the catalogue is not written in, or symbols."""


@dataclass(frozen=True)
class Understanding:
    """Knows Latin letters, digits, the scripts of the catalogue's titles, and the known search keywords."""

    store: ItemStore
    scripts: frozenset[str]

    @classmethod
    def of(cls, store: ItemStore) -> "Understanding":
        """The understanding that models have with this catalogue."""
        return cls(store, ScriptCheck.of(store, "auto").allowed | {"LATIN"})

    def known_share(self, text: str) -> float:
        """Share of the characters of a text that models know, 0..1; punctuation and spaces do not count."""
        if self.store.keywords.find([text.lower()])[0] >= 0:
            return 1.0
        known = total = 0
        for char in text:
            if char.isalpha():
                known += script_of(char) in self.scripts
            elif char.isdigit():
                known += 1
            elif unicodedata.category(char) not in ("So", "Sk", "Co", "Cn"):
                continue
            total += 1
        return known / total if total else 0.0

    def doubt(self, text: str) -> NotUnderstood | None:
        """Why a text is not understood; None if it is."""
        if self.known_share(text) >= UNDERSTOOD_SHARE:
            return None
        return NotUnderstood.UNKNOWN_SCRIPT if any(map(str.isalnum, text)) else NotUnderstood.NO_WORDS

    def relevance_factor(self, text: str) -> float:
        """Factor of the relevance of every product to a text: 1 if the text is understood."""
        share = self.known_share(text)
        return 1.0 if share >= UNDERSTOOD_SHARE else share
