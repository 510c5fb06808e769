"""Text policy: finds unwanted words in generated text, also when they are disguised.

The list is an editable file (see ``text_policy_words.txt``). Matching is by whole words, so that "cocktail dresses" and
"assorted classics" pass, over a normalised form: compatibility letters, accents, look-alike letters of other scripts,
digits and signs used as letters, letters spaced out one by one, and letters repeated for emphasis.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

DEFAULT_WORDS = Path(__file__).with_name("text_policy_words.txt")

_LOOKALIKES = str.maketrans(
    "абвгеёзіјкмнорстухѕԁɡαβγεικνορτυχıɑøđłß",
    "abbreezijkmhopctyxsdgabyeiknoptuxiaodls",
)
_LEET = str.maketrans({"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "8": "b", "9": "g"})
_LEET_L = str.maketrans({"1": "l"})
_SIGNS = str.maketrans({"@": "a", "$": "s", "!": "i", "|": "i", "€": "e", "£": "l", "+": "t"})
_WORD = re.compile(r"[^\W_]+")
_RUN = re.compile(r"(.)\1{2,}")
_OFFER = re.compile(
    r"\d\s*%\s*(off|less|cheaper|discount)|(save|up to)\s+\d+\s*%|[$€£¥]\s*\d|\d\s*[€£¥]", re.IGNORECASE
)


@dataclass(frozen=True)
class TextPolicy:
    """Unwanted terms by their first word: ``terms[first]`` holds (section, remaining words, prefix match)."""

    terms: dict[str, list[tuple[str, tuple[str, ...], bool]]]
    prefixes: tuple[tuple[str, str], ...]
    path: Path

    @classmethod
    def read(cls, path: Path = DEFAULT_WORDS) -> "TextPolicy":
        """Read a word list.

        Raises:
            ValueError: The file is not there, not UTF-8, or a line of it has no words; names file and line.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: expected a readable UTF-8 word list of the text policy, got {error}") from None
        section = "words"
        terms: dict[str, list[tuple[str, tuple[str, ...], bool]]] = {}
        prefixes: list[tuple[str, str]] = []
        for number, line in enumerate(lines, 1):
            text = line.split("#", 1)[0].strip()
            if not text:
                continue
            if text.startswith("[") and text.endswith("]"):
                section = text[1:-1].strip()
                continue
            words = tuple(_WORD.findall(fold(text)))
            if not words:
                raise ValueError(f"{path}, line {number}: expected a word or phrase, got {text!r}")
            is_prefix = text.endswith("*")
            if is_prefix and len(words) == 1:
                prefixes.append((words[0], section))
            else:
                terms.setdefault(words[0], []).append((section, words[1:], is_prefix))
        return cls(terms, tuple(prefixes), path)

    def find(self, text: str) -> str | None:
        """The section of the first unwanted term in ``text``, None if there is none.

        Prices and discounts are found, too (section "claims"), because a model must not invent an offer.
        """
        if _OFFER.search(text):
            return "claims"
        for words in _readings(text):
            for start, word in enumerate(words):
                for prefix, section in self.prefixes:
                    if word.startswith(prefix):
                        return section
                for section, rest, is_prefix in self.terms.get(word, ()):
                    following = words[start + 1 : start + 1 + len(rest)]
                    if len(following) < len(rest):
                        continue
                    *exact, last = rest or ("",)
                    if tuple(following[: len(exact)]) != tuple(exact):
                        continue
                    if not rest or following[-1] == last or (is_prefix and following[-1].startswith(last)):
                        return section
        return None


def fold(text: str) -> str:
    """Lower case without accents, look-alike letters as Latin ones."""
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(
        char for char in decomposed if not unicodedata.combining(char) and unicodedata.category(char) != "Cf"
    )
    return plain.casefold().translate(_LOOKALIKES)


def _readings(text: str) -> Iterable[list[str]]:
    """Possible readings of a text, each as a list of words."""
    plain = fold(text)
    disguised = plain.translate(_SIGNS)
    seen: set[tuple[str, ...]] = set()
    for base, one in product((plain, disguised), ("i", "l")):
        words = _join_spelled([_unleet(word, one) for word in _WORD.findall(base)])
        for reading in (words, [_RUN.sub(r"\1\1", word) for word in words], [_RUN.sub(r"\1", word) for word in words]):
            if (key := tuple(reading)) not in seen:
                seen.add(key)
                yield reading


def _unleet(word: str, one: str) -> str:
    if word.isdigit() or word.isalpha():
        return word
    return (word.translate(_LEET_L) if one == "l" else word).translate(_LEET)


def _join_spelled(words: list[str]) -> list[str]:
    """Join runs of three or more single letters: "s h i t" becomes one word."""
    joined: list[str] = []
    run: list[str] = []
    for word in [*words, ""]:
        if len(word) == 1:
            run.append(word)
            continue
        joined.extend(["".join(run)] if len(run) >= 3 else run)
        run = []
        if word:
            joined.append(word)
    return joined
