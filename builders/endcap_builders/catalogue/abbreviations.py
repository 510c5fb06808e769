"""Expands abbreviations in category names with longer words of the same catalogue.

"FRZN" is "frozen", because they share their consonants and "frozen" occurs elsewhere in the catalogue. "BTR" in "PNT
BTR" is "butter", not "better", because a category below it, or a title of its products, contains "peanut butter". There
is no list of abbreviations; the only evidence are the shop's titles, searches and category names.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_VOWELS = frozenset("aeiouyäöüéèêáàâíóôúåæø")
# An abbreviation without vowels can lack consonants, too ("pkg", "lt"); least share that it must have.
_LEAST_COVERAGE = 0.6
_LEAST_PREFIX = 3
_LEAST_ALONE = 3
_LONG, _NEARLY = 6, 0.75
CONSONANTS, MOST_CONSONANTS, BEGINNING = "same consonants", "most consonants", "beginning"
_SEARCHED = 2
_TITLED = 3
_NEARBY = 3.0
_BESIDE = 3.0


@dataclass(frozen=True)
class Spelling:
    """The expansion of a word of a category name.

    Attributes:
        word: the word in the name, in lower case.
        spelled: its expansion, in lower case.
        why: the evidence, for the audit table.
    """

    word: str
    spelled: str
    why: str


def name_words(text: str) -> list[str]:
    """The words of a name in lower case, without numbers."""
    return _WORD.findall(text.lower())


class Abbreviations:
    """Finds the expansions of abbreviations in the category names of one catalogue.

    Args:
        names: the distinct category names (single parts of paths); truncated names end in a part of a word.
        titles: titles of products; may be empty.
        searches: search texts and their counts; may be empty.
        cut: length at which names are truncated, or None.
    """

    def __init__(
        self,
        names: Iterable[str],
        titles: Iterable[str] = (),
        searches: Mapping[str, int] | None = None,
        cut: int | None = None,
    ):
        self._counts: Counter[str] = Counter()
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._whole: set[str] = set()
        self._titled: Counter[str] = Counter()
        self._searched: Counter[str] = Counter()
        for name in names:
            found = name_words(name)
            if cut is not None and len(name) >= cut:
                # The last word can be incomplete.
                found = found[:-1]
            self._counts.update(found)
            self._pairs.update(pairwise(found))
            if len(found) == 1:
                self._whole.add(found[0])
        for title in titles:
            found = name_words(title)
            self._titled.update(set(found))
            self._pairs.update(pairwise(found))
        for text, count in (searches or {}).items():
            found = name_words(text)
            self._searched.update(dict.fromkeys(found, count))
            self._pairs.update(pairwise(found))
        self._next: dict[str, set[str]] = defaultdict(set)
        self._previous: dict[str, set[str]] = defaultdict(set)
        for first, second in self._pairs:
            self._next[first].add(second)
            self._previous[second].add(first)
        self._counts.update(self._titled)
        self._counts.update(self._searched)
        self._forms: dict[str, Counter[str]] = defaultdict(Counter)
        for word, count in self._counts.items():
            self._forms[singular(word)][word] += count
        self._by_first: dict[str, list[str]] = defaultdict(list)
        for form in sorted(self._forms):
            self._by_first[form[0]].append(form)

    def count(self, word: str) -> int:
        """How often a word occurs in the catalogue, singular or plural."""
        return self._forms[singular(word)].total() if singular(word) in self._forms else 0

    def known(self, word: str) -> bool:
        """Whether people use a word: it is searched, in titles, a whole name, or occurs in several forms."""
        if self._used(word):
            return True
        # "frzn" and "drnks" are whole names and have plurals, too.
        if not _VOWELS & set(word):
            return False
        return word in self._whole or any(
            other != word and other.startswith(singular(word)) and other[len(singular(word)) :] in _ENDINGS
            for other in (*self._forms[singular(word)], *(singular(word) + ending for ending in _ENDINGS))
            if self._counts[other]
        )

    def _used(self, word: str) -> bool:
        return self._searched[word] >= _SEARCHED or self._titled[word] >= _TITLED

    def spell(
        self, word: str, nearby: Counter[str], before: str | None, after: str | None, *, code: bool, cut: bool = False
    ) -> Spelling | None:
        """The expansion of ``word``; None if it is a word itself, or the catalogue has no evidence.

        A word with at least three letters, without vowels, and with the consonants of another word needs no other
        evidence. All others need an expansion near their category, or beside the same neighbour elsewhere.

        Args:
            word: in lower case.
            nearby: words of the names and titles around its category, and their counts.
            before: the word before it in the name.
            after: the word after it.
            code: whether the name is a code; in other names, only words of at least three letters without vowels are
                abbreviations.
            cut: whether the name is truncated in this word, so that it can be the start of any word.
        """
        if not code and (len(_singular(word)) < _LEAST_ALONE or _VOWELS & set(word)):
            return None
        if not self._used(word) and (joined := self._joined(word)) is not None:
            return joined
        if not cut and self.known(word):
            return None
        best: tuple[float, str, str] | None = None
        local = {singular(other) for other in nearby if other[0] == word[0]}
        own = self._counts[word]
        short = _singular(word)
        for form in self._by_first.get(word[0], ()):
            kind, quality = _likeness(short, form)
            if not kind or not _VOWELS & set(form) or not self._is_candidate(kind, word, form, own, cut=cut):
                continue
            near, beside = form in local, self._beside(form, before, after)
            # Two letters fit too many words, so a nearby word is no evidence: "gm" is no game.
            if not (beside or (near and (cut or len(word) >= _LEAST_ALONE)) or _is_plain(kind, word, form)):
                continue
            score = quality * (1 + _NEARBY * near + _BESIDE * beside) * self._forms[form].total() ** 0.25
            if best is None or score > best[0]:
                where = ["in the category's own texts"] * near + ["beside the same word elsewhere"] * beside
                best = (score, form, ", ".join([kind, *where]))
        return None if best is None else Spelling(word, self._surface(best[1], word), best[2])

    def _is_candidate(self, kind: str, word: str, form: str, own: int, *, cut: bool) -> bool:
        """Whether a word can be the expansion, judged by both words alone."""
        if kind == BEGINNING:
            # A plural is a whole word.
            if not cut and (len(word) < _LEAST_PREFIX or word.endswith("s")):
                return False
            # "lunchmeat" is not the long form of "lunch": the rest is another word.
            if len(form) >= len(singular(word)) + 3 and self.known(form[len(singular(word)) :]):
                return False
        # A word that is rarer than the abbreviation is another word.
        is_rarer = self._forms[form].total() < own
        return cut or not is_rarer or (kind != BEGINNING and not _VOWELS & set(word[1:]))

    def _surface(self, form: str, word: str) -> str:
        """The singular or plural of a word, as its abbreviation has it, else the most frequent form."""
        forms = self._forms[form]
        plural = word.endswith("s") and len(word) > 2
        fitting = [other for other in forms if other.endswith("s") == plural]
        return max(fitting or forms, key=lambda other: (forms[other], other))

    def _beside(self, form: str, before: str | None, after: str | None) -> bool:
        """Whether the word occurs beside the same neighbour elsewhere; the neighbour can be an abbreviation, too."""
        return any(
            (before is not None and _among(before, self._previous[other]))
            or (after is not None and _among(after, self._next[other]))
            for other in self._forms[form]
        )

    def _joined(self, word: str) -> Spelling | None:
        """ "catfd" is "cat food": a word, and the abbreviation of one that occurs beside it elsewhere."""
        for at in range(len(word) - 2, 2, -1):
            head, tail = word[:at], word[at:]
            for second in sorted(self._next.get(head, ())):
                is_short = _likeness(tail, singular(second))[0] == CONSONANTS and not (_VOWELS | {"s"}) & set(tail)
                if is_short or (tail == second and word not in self._whole and self.count(second) > 1):
                    return Spelling(word, f"{head} {second}", "two words that stand side by side elsewhere")
        return None


def _is_plain(kind: str, word: str, form: str) -> bool:
    """Whether an abbreviation needs no other evidence: no vowels, or a long word with one or two vowels omitted."""
    if kind != CONSONANTS or len(word) < _LEAST_ALONE:
        return False
    return not _VOWELS & set(word[1:]) or (len(word) >= _LONG and len(_singular(word)) >= _NEARLY * len(form))


def singular(word: str) -> str:
    """A word without its English plural, as it is written: abbreviations are compared with words, not with stems."""
    if len(word) > 3 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes", "zes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _singular(word: str) -> str:
    """The singular of a word, also of an abbreviation without vowels ("gds")."""
    if len(word) > 2 and word.endswith("s") and not _VOWELS & set(word):
        return word[:-1]
    return singular(word)


def _among(word: str, others: Iterable[str]) -> bool:
    """Whether ``word`` is one of ``others``, or has the consonants of one."""
    return word in others or any(
        _VOWELS & set(other) and _likeness(_singular(word), singular(other))[0] in (CONSONANTS, MOST_CONSONANTS)
        for other in others
    )


_ENDINGS = ("s", "es", "ed", "d", "ing", "er", "ers", "y")


@lru_cache(maxsize=100_000)
def _skeleton(word: str) -> str:
    """The consonants of a word, doubled ones once; its first letter always."""
    rest = [char for char in word[1:] if char not in _VOWELS]
    letters = [word[0], *rest]
    return "".join(char for at, char in enumerate(letters) if at == 0 or char != letters[at - 1])


def _is_part(short: str, word: str) -> bool:
    letters = iter(word)
    return all(char in letters for char in short)


@lru_cache(maxsize=1_000_000)
def _likeness(short: str, word: str) -> tuple[str, float]:
    """How ``short`` abbreviates ``word`` (both without number), and how well: 0 not at all, 1 at best."""
    if len(word) <= len(short) or short[0] != word[0] or word in (short + ending for ending in _ENDINGS):
        return "", 0.0
    if not _is_part(short, word):
        return "", 0.0
    if _skeleton(short) == _skeleton(word) and len(_skeleton(word)) > 1:
        return CONSONANTS, 1.0
    if not _VOWELS & set(short[1:]) and len(short) > 1:
        coverage = len(_skeleton(short)) / len(_skeleton(word))
        if coverage >= _LEAST_COVERAGE:
            return MOST_CONSONANTS, 0.8 * coverage
    if word.startswith(short):
        return BEGINNING, 0.6
    return "", 0.0


def cut_length(names: Sequence[str], least: int = 3) -> int | None:
    """The length at which a catalogue truncates names: the largest length, if several names have it.

    To exclude chance, more names must have this length than the next smaller one.
    """
    lengths = Counter(len(name) for name in names)
    longest = max(lengths, default=0)
    if lengths[longest] >= least and lengths[longest] > 2 * lengths[longest - 1]:
        return longest
    return None
