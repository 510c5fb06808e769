"""Converts category names to labels in shoppers' words, with the catalogue as the only source.

"FRZN MEAT/MEAT DINNERS" becomes "Frozen Meat & Meat Dinners", "PREMIUM" below "ICE CREAM/MILK/SHERBTS" becomes "Premium
Ice Cream". Names that are words already do not change. See ``shopper_words``.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from endcap_builders.catalogue.abbreviations import Abbreviations, Spelling, cut_length, name_words, singular
from endcap_builders.catalogue.schema import PATH_SEPARATOR

Path = tuple[str, ...]

MOST_CHARACTERS = 60
_MOST_PARTS = 3
_TITLES_OF_CATEGORY = 200
_LONGEST_ACRONYM = 3
_LONGEST_KIND = 2
_LEAST_MODIFIED = 2
# The last word of a truncated name is complete if it occurs at least this often in the catalogue.
_WELL_KNOWN = 3
# Tokens of a code up to this length without a vowel are internal codes of the shop.
_MEANINGLESS = 2
_HAS_VOWEL = re.compile(r"[aeiouyäöüéèêáàâíóôúåæø]", re.IGNORECASE)
# Words without meaning for shoppers. The first group introduces exceptions.
_EXCEPTIONS = frozenset(["not", "except", "excluding", "including", "excl", "incl", "under", "over"])
FILLERS = frozenset(["all", "misc", "miscellaneous", "other", "others", "only", "etc", "assorted", "general"])
_CONNECTORS = frozenset(["and", "or", "with", "without", "in", "of", "for", "the", "a", "w"])
_TOKEN = re.compile(r"\d+(?:[.,]\d+)?%|\d[\w./&]*|[^\W\d_]+(?:['’][^\W\d_]+)?|[/&,:]|-")
_WITH = re.compile(r"\bw/(?=\w)", re.IGNORECASE)
_PAREN = re.compile(r"\([^)]*\)?")


@dataclass(frozen=True)
class Label:
    """The label of a category.

    Attributes:
        path: of the category, the parts joined with " > ".
        text: the label; unique among categories with products.
        spellings: abbreviations that were expanded.
    """

    path: str
    text: str
    spellings: tuple[Spelling, ...] = ()


def shopper_words(
    paths: Iterable[str],
    titles: Mapping[str, Sequence[str]] | None = None,
    searches: Mapping[str, int] | None = None,
) -> dict[str, Label]:
    """A label of a few words for each category path.

    A name with small letters and without abbreviations does not change. A name in capitals is a code: text in
    parentheses and after "except" is removed, slashes become "&", abbreviations are expanded (``Abbreviations``), and a
    truncated last word is completed or removed. A name that means nothing without its parent ("Premium") gets the
    parent's name. Equal labels get more of their names, or the name of the nearest parent that distinguishes them; the
    one with most of the products keeps the label.

    Args:
        paths: the category ("a > b > c") of each product; "" is skipped.
        titles: titles of the products of each path, the best evidence.
        searches: search texts and their counts.

    Returns:
        A label for each path of ``paths`` (all distinct), and for each path above one.
    """
    sizes: Counter[Path] = Counter()
    own: set[Path] = set()
    for path, count in Counter(filter(None, paths)).items():
        node = _parts(path)
        own.add(node)
        sizes.update({node[:depth]: count for depth in range(1, len(node) + 1)})
    of_path = {_parts(path): texts for path, texts in (titles or {}).items()}
    return _Labeller(sizes, own, of_path, searches or {}).labels()


def _parts(path: str) -> Path:
    return tuple(part.strip() for part in path.split(PATH_SEPARATOR))


def audit_table(labels: Iterable[Label]) -> pl.DataFrame:
    """A table of the labels: path, label, and what was expanded for what reason."""
    rows = [
        {
            "path": label.path,
            "label": label.text,
            "spelled": "; ".join(f"{one.word} = {one.spelled} ({one.why})" for one in label.spellings),
        }
        for label in labels
    ]
    return pl.DataFrame(rows, schema={"path": pl.String, "label": pl.String, "spelled": pl.String})


class _Labeller:
    def __init__(
        self,
        sizes: Mapping[Path, int],
        own: Iterable[Path],
        titles: Mapping[Path, Sequence[str]],
        searches: Mapping[str, int],
    ):
        # Only labels of categories with products of their own must differ.
        self._own = sorted(own)
        self._sizes = sizes
        self._nodes = nodes = sorted(sizes)
        self._deepest = max(map(len, nodes), default=0)
        self._titles = titles
        names = sorted({node[-1] for node in nodes})
        self._coded = sum(map(_is_upper, names)) > len(names) / 2
        self._cut = cut_length([name for name in names if self._is_code(name)])
        sample = [title for texts in titles.values() for title in texts[:_TITLES_OF_CATEGORY]]
        self._words = Abbreviations(names, sample, searches, self._cut)
        self._children: dict[Path, list[Path]] = defaultdict(list)
        for node in nodes:
            self._children[node[:-1]].append(node)
        self._votes: dict[str, Counter[str]] = defaultdict(Counter)
        # A name with categories below it is a noun.
        self._modifiers = _modifiers(names) - {singular(node[-1].lower()) for node in self._children if node}
        self._texts: dict[Path, str] = {}
        self._spellings: dict[Path, list[Spelling]] = {}

    def labels(self) -> dict[str, Label]:
        """All labels."""
        for node in self._nodes:
            for spelling in self._read(node)[1]:
                self._votes[spelling.word][spelling.spelled] += 1
        for node in self._nodes:
            text, self._spellings[node] = self._read(node)
            self._texts[node] = self._complete(node, text)
        self._distinguish()
        paths = {node: f" {PATH_SEPARATOR} ".join(node) for node in self._nodes}
        return {path: Label(path, self._texts[node], tuple(self._spellings[node])) for node, path in paths.items()}

    def _is_code(self, name: str) -> bool:
        """Whether a name is a code: no small letters, and in a catalogue of mixed names, longer than an acronym."""
        return _is_upper(name) and (self._coded or sum(map(str.isalpha, name)) > _LONGEST_ACRONYM)

    def _nearby(self, node: Path) -> Counter[str]:
        """Words of a category's name, of the names above, below and beside it, and of its titles."""
        found = Counter(name_words(node[-1]))
        beside = self._children[node[:-1]] if len(node) > 1 else []
        below = self._children[node]
        for other in (*below, *beside, *(node[:depth] for depth in range(1, len(node)))):
            if other != node:
                found.update(name_words(other[-1]))
        for child in (node, *below):
            for title in self._titles.get(child, ())[:_TITLES_OF_CATEGORY]:
                found.update(name_words(title))
        return found

    def _read(self, node: Path, *, detailed: bool = False) -> tuple[str, list[Spelling]]:
        """The name of a category in words, and the abbreviations spelled out in it.

        ``detailed`` keeps numbers and text in parentheses, which distinguish sibling categories.
        """
        name = node[-1]
        code = self._is_code(name)
        text = name
        if code and detailed:
            text = re.sub(r"[()]+", " ", name)
        elif code:
            text = _PAREN.sub(" ", name)
        tokens = [token.lower() for token in _TOKEN.findall(_WITH.sub("with ", text))]
        # One less, because a space at the end can be lost.
        is_cut = code and self._cut is not None and len(name) >= self._cut - 1 and (detailed or "(" not in name)
        spellings: list[Spelling] = []
        read: list[str] = []
        nearby = self._nearby(node)
        for at, token in enumerate(tokens):
            if not token[0].isalpha() or token in _CONNECTORS | FILLERS:
                read.append(token)
                continue
            cut = is_cut and at == len(tokens) - 1 and self._words.count(token) < _WELL_KNOWN
            if is_cut and at == len(tokens) - 1 and _says_nothing(token):
                continue
            neighbours = [
                tokens[place] if 0 <= place < len(tokens) and tokens[place][0].isalpha() else None
                for place in (at - 1, at + 1)
            ]
            spelled = self._words.spell(token, nearby, *neighbours, code=code, cut=cut)
            if spelled is None and code and not cut and self._votes[token] and not self._words.known(token):
                spelled = Spelling(token, self._votes[token].most_common(1)[0][0], "as in other categories")
            if spelled is not None:
                spellings.append(spelled)
                read.extend(spelled.spelled.split())
            elif not cut and (not code or detailed or len(token) > _MEANINGLESS or _HAS_VOWEL.search(token)):
                read.append(token)
        if not code:
            return self._small(name, spellings), spellings
        head = name_words(node[-2])[-1:] if len(node) > 1 else []
        return _composed(read, head[0] if head else "", self._modifiers, numbers=detailed), spellings

    @staticmethod
    def _small(name: str, spellings: list[Spelling]) -> str:
        """The label of a name with small letters: only abbreviations change."""
        for spelling in spellings:
            for word in dict.fromkeys(re.findall(rf"\b{re.escape(spelling.word)}\b", name, re.IGNORECASE)):
                shown = spelling.spelled.title() if word[0].isupper() else spelling.spelled
                name = re.sub(rf"\b{re.escape(word)}\b", shown, name)
        return name

    def _complete(self, node: Path, text: str) -> str:
        """The label, with the parent's name if it means nothing without it."""
        if len(node) == 1:
            return text or node[-1]
        if len(node) == 2 and self._deepest > 2 and text:
            # Names of departments are too broad.
            return text
        parent = self._texts[node[:-1]]
        if not _singulars(text):
            return parent
        first = re.split(r",| & ", parent)[0]
        is_alone = _singulars(text) <= self._modifiers or self._is_kind(node)
        return (
            f"{text} {first}"
            if self._is_code(node[-1]) and is_alone and not _singulars(text) & _singulars(first)
            else text
        )

    def _is_kind(self, node: Path) -> bool:
        """Whether a single word distinguishes kinds of the parent, as its siblings do: "LEAN" beside "CHOICE BEEF"."""
        words, parent = name_words(node[-1]), name_words(node[-2])
        if len(words) != 1 or len(parent) != 1 or words[0].endswith("s"):
            return False
        beside = [name_words(other[-1]) for other in self._children[node[:-1]] if other != node]
        return any(len(other) == 2 and singular(other[-1]) == singular(parent[0]) for other in beside)

    def _distinguish(self) -> None:
        """Makes equal labels distinct: siblings by their details, others by the nearest parents that differ.

        A category with more products than all others of its label together keeps it.
        """
        for group in self._equal():
            shelves = Counter(node[:-1] for node in group)
            for node in group:
                if shelves[node[:-1]] > 1:
                    self._texts[node] = self._complete(node, self._read(node, detailed=True)[0])
        plain = dict(self._texts)
        for above in range(1, max(map(len, self._nodes), default=0)):
            for group in self._equal():
                parents = {node: plain.get(node[:-above], "") for node in group}
                largest = max(group, key=lambda node: self._sizes[node])
                keeps = 2 * self._sizes[largest] > sum(self._sizes[node] for node in group)
                if len(set(parents.values())) > 1:
                    for node, parent in parents.items():
                        if keeps and node == largest:
                            continue
                        if parent and parent.casefold() != plain[node].casefold():
                            self._texts[node] = _below(plain[node], parent)
        for group in self._equal():
            for number, node in enumerate(sorted(group, key=lambda node: -self._sizes[node])[1:], 2):
                self._texts[node] = f"{self._texts[node]} {number}"

    def _equal(self) -> list[list[Path]]:
        groups: dict[str, list[Path]] = defaultdict(list)
        for node in self._own:
            groups[self._texts[node].casefold()].append(node)
        return [group for group in groups.values() if len(group) > 1]


def _below(label: str, parent: str) -> str:
    """A label with the name of a category above as prefix: "Men Shirts"."""
    first = re.split(r",| & ", parent)[0]
    return f"{label} in {first}" if _singulars(label) & _singulars(first) else f"{first} {label}"


def _says_nothing(end: str) -> bool:
    """Whether the last word of a truncated name is a letter, or the start of a meaningless word ("ET" of "etc")."""
    return len(end) == 1 or any(word.startswith(end) for word in _EXCEPTIONS | FILLERS | _CONNECTORS)


def _is_upper(name: str) -> bool:
    return name.upper() == name and any(map(str.isalpha, name))


def _modifiers(names: Iterable[str]) -> set[str]:
    """Stems of words that are mostly followed by others: "premium", "dry", "white"."""
    inside, final = Counter[str](), Counter[str]()
    for name in names:
        for part in re.split(r"[/,:(&]|\s-\s", name):
            *before, last = name_words(part) or [""]
            inside.update(map(singular, before))
            final[singular(last)] += bool(before)
    return {word for word, count in inside.items() if count >= _LEAST_MODIFIED and count > 2 * final[word]}


def _singulars(text: str) -> set[str]:
    return {singular(word) for word in name_words(text)} - _CONNECTORS - FILLERS


def _composed(tokens: Sequence[str], head: str, modifiers: set[str], *, numbers: bool = False) -> str:
    """Joins words and separators to a name: parts joined with "&", the noun last, each word with a capital.

    Args:
        tokens: words in lower case, numbers, and separators.
        head: last word of the category above.
        modifiers: singulars of words that precede others.
        numbers: whether to keep numbers that are no percentages.
    """
    parts: list[list[str]] = [[]]
    kind: list[str] = []
    for token in tokens:
        left = parts[-1]
        if token in _EXCEPTIONS and not numbers:
            break
        if token in ("/", ","):
            parts.append([])
        elif token in (":", "-"):
            # "BREAD:ITALIAN" is Italian bread and "EGGS - LARGE" are large eggs, while "MULTI-PACK" is one word.
            is_kind = token == ":" or (bool(left) and singular(left[-1]) == singular(head))
            if is_kind and len(parts) == 1 and 1 <= len(left) <= _LONGEST_KIND:
                kind, parts = left, [[]]
        elif numbers or not token[0].isdigit() or token.endswith("%"):
            left.append(token)
    parts = [part for part in map(_trimmed, parts) if part]
    if len(parts) > 1 and len(parts[0]) == 1 and singular(parts[0][0]) == singular(head):
        # "PIZZA/ECONOMY" below "FROZEN PIZZA" is an economy pizza.
        if all(singular(part[-1]) in modifiers for part in parts[1:]):
            kind, parts = parts[0], parts[1:]
    elif len(parts) == 1 and not kind and len(parts[0]) > 1:
        first = parts[0][0]
        if singular(first) == singular(head) and first.endswith("s") and not {"&", "and"} & set(parts[0]):
            # "POTATOES RUSSET" below "POTATOES": the plural is the noun, the rest its modifier.
            kind, parts = parts[0][:1], [parts[0][1:]]
    texts = list(dict.fromkeys(_shown(_turned(part, modifiers)) for part in parts))[:_MOST_PARTS]
    name = " & ".join(([", ".join(texts[:-1])] if texts[:-1] else []) + texts[-1:])
    shown = _shown(_turned(_trimmed(kind), modifiers))
    if shown and not _singulars(shown) <= _singulars(name):
        name = f"{name} {shown}".strip()
    return name if len(name) <= MOST_CHARACTERS else name[: MOST_CHARACTERS + 1].rpartition(" ")[0].rstrip(" &,")


def _trimmed(words: Sequence[str]) -> list[str]:
    """Without fillers, and without connectors at the ends."""
    kept = [word for word in words if word not in FILLERS]
    while kept and (kept[-1] in _CONNECTORS or kept[-1] == "&"):
        kept.pop()
    while kept and kept[0] in ("and", "or", "&"):
        kept.pop(0)
    return kept


def _turned(words: Sequence[str], modifiers: set[str]) -> list[str]:
    """Moves modifiers before nouns: "spaghetti dry" becomes "dry spaghetti"."""
    turned = list(words)
    if len(words) > 1 and not {"&", *_CONNECTORS} & set(words):
        if singular(words[-1]) in modifiers and singular(words[0]) != singular(words[-1]):
            turned = [words[-1], *words[:-1]]
        elif (
            len(words) == 2
            and words[0].endswith("s")
            and singular(words[0]) not in modifiers
            and singular(words[1]) in modifiers
        ):
            turned = [words[1], words[0]]
    return turned


def _shown(words: Sequence[str]) -> str:
    """Capitalises words; tokens that are no words ("BBQ") are all in capitals."""
    return " ".join(
        word if word in _CONNECTORS else word.capitalize() if _HAS_VOWEL.search(word) else word.upper()
        for word in words
    )
