"""What the two LLMs read and write: the canonical shopper text, both prompts, and the parser of LLM 1's answer.

Builders write training examples with these functions, and stages write requests with them, so a student always reads
the format that it was trained on. Texts from outside (session queries, campaigns, rules) are cleaned: a part of a
prompt has no separators, quotes or control characters, and a bounded length.
"""

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from itertools import pairwise
from statistics import median

from endcap_server.shop.slots import MAX_SLOTS, Slots, slot, without_slots

NEW_SHOPPER = "new shopper"
MAX_PLACEMENTS = 20
"""Most themes of one prompt: a page of 16, and spare themes to replace those that quality checks drop."""
MAX_CANDIDATES = 100
"""Most candidate keywords of one prompt (P2: about 100)."""
CANDIDATE_TOKENS = tuple(f"<|{number}|>" for number in range(1, MAX_CANDIDATES + 1))
"""Tokens of LLM 2 that stand for the candidates of a prompt, in their order; no other text of a prompt has a ``|``."""
TITLE_CHARACTERS = 60
QUOTED_SEARCHES = 2
"""Searches of a session that get their own placement."""
CONCEPT_CHARACTERS = 40
MAX_KEYWORD_CHARACTERS = 60

MAX_FAVOURITES, MAX_NEXT, _MAX_DUE, _MAX_BRANDS, _MAX_SESSION = 6, 3, 3, 3, 3
_NEW, _NEXT_LIST = "+", ";"
MAX_CONCEPTS = 4
_SEASONS = ("winter", "spring", "summer", "autumn")
HALF_LIFE = 20.0
"""Events after which one in a history counts half, unless `retrieval` is told otherwise."""
_DUE_AFTER = 0.7
_NAMELESS = frozenset(
    ("", "other", "others", "all other", "misc", "miscellaneous", "general", "assorted", "unknown", "none")
)
_SEPARATORS = re.compile(r"[|,;:\"\\{}\[\]<>]")
_SEPARATORS_OF_TITLES = re.compile(r"[|;:\"\\{}\[\]<>]|(?<!\w),|,(?! )")
_SCRIPT = re.compile(r"[|:;\\{}\[\]<>]")
_MOST_WORDS = 5
_PLAIN_WORD = r"(?:[^\W_][\w&'%.+/-]{0,19}|&)"
_PLAIN = re.compile(rf"{_PLAIN_WORD}(?: {_PLAIN_WORD}){{0,{_MOST_WORDS - 1}}}")
_SPACES = re.compile(r"\s+")
_CANDIDATE_TOKEN = re.compile(r"<\|\d+\|>")


class MalformedAnswer(ValueError):  # noqa: N818  (an answer, not an error of ours)
    """A student's answer does not match its grammar; the message shows the answer."""


@dataclass(frozen=True)
class ThemeDraft:
    """A theme as LLM 1 writes it: a title, and the concepts (kinds of products) that it is about."""

    title: str
    concepts: tuple[str, ...]


def keyword_form(text: str) -> str:
    """The form in which keywords are stored and looked up: one line, NFKC, lowercase, single spaces.

    Keywords have at most `MAX_KEYWORD_CHARACTERS`; a longer text stays longer, and is none.
    """
    return clean(text, MAX_KEYWORD_CHARACTERS + 1).lower()


def clean(text: str, limit: int, *, commas: bool = False) -> str:
    """Make `text` safe to stand in a prompt: one line, no separators or control characters, at most `limit` characters.

    A text that is too long is cut at a word. Titles may keep their `commas` (after a word, before a space).
    """
    # Cut first, so that a huge text takes no time.
    text = text[: limit * 8]
    if not (text.isascii() and text.isprintable()):
        text = unicodedata.normalize("NFKC", text)
        # Remove unassigned, private, surrogate, format and control characters; keep spaces.
        text = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    separators = _SEPARATORS_OF_TITLES if commas else _SEPARATORS
    text = _SPACES.sub(" ", separators.sub(" ", text)).strip(" ,")
    if len(text) <= limit:
        return text
    head, _, _ = text[: limit + 1].rpartition(" ")
    return (head or text[:limit]).strip(" ,")


def is_quotable(text: str) -> bool:
    """Whether a shopper's search may stand in a prompt or a title: it has no sign of markup, code or a dialogue."""
    return not _SCRIPT.search(unicodedata.normalize("NFKC", text))


@lru_cache(maxsize=100_000)
def leaf_name(category: str) -> str:
    """Name a category path by its last part: ``"Food > Frozen/Ice cream"`` -> ``"frozen ice cream"``.

    For a last part that says nothing ("Soup > Other"), the part above is the name.
    """
    name = ""
    for part in reversed(category.split(">")):
        name = clean(part.replace("/", " ").replace("_", " "), CONCEPT_CHARACTERS).lower()
        if name not in _NAMELESS:
            return name
    return name


def label_name(label: str) -> str:
    """Name a category by its label as prompts do: plain, in lower case, at most five words and 40 characters.

    A word that stands there already is left out: "Frozen Meat, Meat Dinners" -> "frozen meat dinners". So is a category
    above that does not fit as a whole: "Lunch Meat in Packaged Meat" -> "lunch meat".
    """
    own, _, above = clean(label.replace("/", " ").replace("_", " "), 2 * CONCEPT_CHARACTERS).lower().partition(" in ")
    name = list(dict.fromkeys(own.split()))
    whole = [*name, "in", *above.split()]
    if above and len(whole) <= _MOST_WORDS and len(" ".join(whole)) <= CONCEPT_CHARACTERS:
        return " ".join(whole)
    name = clean(" ".join(name[:_MOST_WORDS]), CONCEPT_CHARACTERS).split()
    while name and name[-1] in ("&", "and", "in", "with"):
        name.pop()
    return " ".join(name)


def favourites(labels: Iterable[str], limit: int, half_life: float = HALF_LIFE) -> list[str]:
    """Rank the labels of a history (oldest first, "" for none) by recency-weighted count, best first, at most `limit`.

    An event counts half as much as one that is `half_life` events younger. Equal weights are ordered by name, so that
    equal shoppers get equal texts.
    """
    weights: dict[str, float] = defaultdict(float)
    for age, label in enumerate(reversed(list(labels))):
        if label:
            weights[label] += 0.5 ** (age / half_life)
    return sorted(weights, key=lambda label: (-weights[label], label))[:limit]


def due(labels: Sequence[str], restocked: Collection[str], limit: int) -> list[str]:
    """Find what a shopper probably needs again: bought at least twice, and the usual gap has nearly passed.

    Gaps are counted in events of the history, because requests carry no times. Consecutive purchases of a label count
    as one.

    Args:
        labels: of a history, oldest first, "" for none.
        restocked: labels that are bought again at all.
        limit: most labels to return.

    Returns:
        Labels, the most often bought first.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        if label in restocked and (place == 0 or labels[place - 1] != label):
            places[label].append(place)
    found = []
    for label, bought in places.items():
        if len(bought) < 2:
            continue
        gap = median(later - earlier for earlier, later in pairwise(bought))
        if len(labels) - bought[-1] >= _DUE_AFTER * gap:
            found.append((-len(bought), label))
    return [label for _, label in sorted(found)[:limit]]


def season_of(day: date, *, southern: bool = False) -> str:
    """Name the season of a day on the northern (or southern) hemisphere."""
    return _SEASONS[(day.month % 12 // 3 + (2 if southern else 0)) % 4]


def shopper_text(
    likes: Sequence[Sequence[str]] = (),
    brands: Sequence[str] = (),
    session: Sequence[str] = (),
    season: str = "",
    campaign: str = "",
    due_kinds: Sequence[str] = (),
    new_kinds: Collection[str] = (),
) -> str:
    """Describe a shopper to LLM 1. All arguments are optional: a shopper without any data is valid.

    Args:
        likes: lists of names of kinds of products, best first; the kinds of a list suit one placement
            (`endcap_server.shop.kind_lists`).
        brands: best first; 3 are used.
        session: this session's search texts, oldest first; the last 3 are used.
        season: as `season_of` names it.
        campaign: the merchandiser's steering text.
        due_kinds: kinds that the shopper probably needs again, from `due`; 3 are used.
        new_kinds: those kinds of ``likes`` that the shopper has not bought yet; the text marks them with "+".

    Returns:
        One short line. Similar shoppers have the same line, which is a part of the key of cached themes.
    """
    unknown = {_kind(name) for name in new_kinds}
    lists: list[list[str]] = []
    named: dict[str, None] = {}
    for kinds in likes:
        names = [name for name in dict.fromkeys(map(_kind, kinds)) if name and name not in named]
        numbered = enumerate(names[: MAX_SLOTS - len(named)], len(named) + 1)
        lists.append([f"{_NEW if name in unknown else ''}{slot(number)}{name}" for number, name in numbered])
        named.update(dict.fromkeys(names[: MAX_SLOTS - len(named)]))
    searched = _items(reversed(session), _MAX_SESSION, CONCEPT_CHARACTERS, lower=True)
    parts = [
        ("likes", _NEXT_LIST.join(",".join(names) for names in lists if names)),
        ("due", ",".join(_items(due_kinds, _MAX_DUE, CONCEPT_CHARACTERS, lower=True))),
        ("brands", ",".join(_items(brands, _MAX_BRANDS, 30))),
        ("searched", ",".join(searched)),
        ("season", clean(season, 20).lower()),
        ("campaign", clean(campaign, TITLE_CHARACTERS)),
    ]
    known = [f"{name}:{value}" for name, value in parts if value]
    if not (named.keys() - unknown or searched):
        known.insert(0, NEW_SHOPPER)
    return "|".join(known)


def _kind(name: str) -> str:
    return clean(name, CONCEPT_CHARACTERS).lower().lstrip(f"{_NEW} ")


def liked_kinds(shopper: str) -> list[str]:
    """Read the kinds of products from a shopper text, in the order of their slots."""
    likes = dict(part.partition(":")[::2] for part in shopper.split("|")).get("likes", "")
    return [without_slots(text.removeprefix(_NEW)) for text in likes.replace(_NEXT_LIST, ",").split(",") if text]


def quoted_texts(shopper: str) -> tuple[str, list[str]]:
    """Read from a shopper text what a page has to quote: the campaign ("" if none) and the newest two searches."""
    parts = dict(part.partition(":")[::2] for part in shopper.split("|"))
    searches = [text for text in parts.get("searched", "").split(",") if plain_words(text)]
    return parts.get("campaign", ""), searches[:QUOTED_SEARCHES]


def plain_words(text: str) -> bool:
    """Whether a text is one to five words that a title or a concept may consist of."""
    return bool(_PLAIN.fullmatch(text))


def theme_prompt(shopper: str, placements: int) -> str:
    """Ask LLM 1 for `placements` themes (1..20) for a shopper described by `shopper_text`."""
    if not 1 <= placements <= MAX_PLACEMENTS:
        raise ValueError(f"placements: expected 1..{MAX_PLACEMENTS}, got {placements}")
    # `shopper_text` has cleaned the parts; another text must at least not start a second line.
    return f"{_SPACES.sub(' ', shopper).strip()}\n{placements} themes\n"


def theme_completion(themes: Sequence[ThemeDraft], shopper: str = "") -> str:
    """Write themes in the format of LLM 1's answer: compact JSON, because every token costs a decoding step.

    A theme whose concepts are all kinds of the shopper text is written with slots. Other themes are not, because what
    goes with a kind is learned by its name; nor is what the page has to quote (`quoted_texts`).
    """
    slots = Slots(liked_kinds(shopper))
    campaign, searches = quoted_texts(shopper)
    items = []
    for theme in themes:
        title, concepts = theme.title, list(theme.concepts)
        if set(concepts) <= set(slots.names) - set(searches):
            concepts = [slots.concept(text) for text in concepts]
            title = title if title.lower() == campaign.lower() else slots.title(title)
        items.append({"title": title, "concepts": concepts})
    return json.dumps(items, ensure_ascii=False, separators=(",", ":"))


def parse_themes(text: str, shopper: str = "") -> list[ThemeDraft]:
    """Read LLM 1's answer. From an answer that was cut (deadline, length), take the complete themes.

    Args:
        text: the answer.
        shopper: the shopper text of the prompt, whose kinds fill the slots of the answer.

    Raises:
        MalformedAnswer: not a JSON list of ``{"title", "concepts"}`` objects, complete or cut; or a slot without kind.
    """
    slots = Slots(liked_kinds(shopper))
    if not text.startswith("["):
        raise MalformedAnswer(f"themes: expected a JSON list, got {text[:80]!r}")
    decoder = json.JSONDecoder()
    themes: list[ThemeDraft] = []
    position = 1
    while position < len(text):
        try:
            item, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            # Cut inside an object: the error is at the end of the text, or in a string without an end.
            if error.pos >= len(text) or error.msg.startswith("Unterminated"):
                return themes
            raise MalformedAnswer(f"themes: {error.msg} at {error.pos} of {text[:200]!r}") from None
        themes.append(_draft(item, slots))
        closing = text[position : position + 1]
        if closing == "]" and not text[position + 1 :].strip():
            return themes
        if closing not in {",", ""}:
            raise MalformedAnswer(f"themes: expected ',' or ']' at {position}, got {text[position : position + 20]!r}")
        position += 1
    return themes


def usable_candidates(candidates: Iterable[str]) -> list[str]:
    """Keep the keywords that can stand in a prompt: not empty, one line, no part of a candidate's token, distinct."""
    kept: dict[str, None] = {}
    for text in candidates:
        if text and text == text.strip() and "|" not in text and text.isprintable():
            kept.setdefault(text)
    return list(kept)[:MAX_CANDIDATES]


def keyword_prompt(theme: str, concepts: Sequence[str], candidates: Sequence[str]) -> str:
    """Ask LLM 2 which of the `candidates` (nearest first, as `usable_candidates` returns them) fit a theme.

    Each candidate is followed by the token of its number. The logits of these tokens at the end of the prompt order the
    candidates, so LLM 2 writes nothing (FIRST, arXiv 2406.15657).
    """
    wanted = ",".join(_items(concepts, MAX_CONCEPTS, CONCEPT_CHARACTERS))
    listed = "".join(f"{text}{token}" for text, token in zip(candidates, CANDIDATE_TOKENS, strict=False))
    return f"{clean(theme, TITLE_CHARACTERS)}:{wanted}\n{listed}\n"


def listed_candidates(prompt: str) -> list[str]:
    """Read the candidates from a prompt of `keyword_prompt`."""
    return _CANDIDATE_TOKEN.split(prompt.split("\n")[1])[:-1]


def placement_text(theme: str, keywords: Sequence[str]) -> str:
    """Describe a placement to the cross-encoder: its theme and first three keywords."""
    first = ", ".join([keyword for keyword in keywords if keyword][:3])
    return f"{theme}: {first}" if first else theme


def _items(texts: Iterable[str], limit: int, characters: int, *, lower: bool = False) -> list[str]:
    kept: dict[str, None] = {}
    for text in texts:
        item = clean(text, characters)
        if item:
            kept.setdefault(item.lower() if lower else item)
        if len(kept) == limit:
            break
    return list(kept)


def _draft(item: object, slots: Slots) -> ThemeDraft:
    if isinstance(item, dict):
        title, concepts = item.get("title"), item.get("concepts")
        if isinstance(title, str) and title and isinstance(concepts, list) and concepts:
            texts = [concept for concept in concepts if isinstance(concept, str) and concept]
            if len(texts) == len(concepts) and set(item) == {"title", "concepts"}:
                try:
                    return ThemeDraft(slots.fill_title(title), tuple(dict.fromkeys(map(slots.fill, texts))))
                except ValueError as error:
                    raise MalformedAnswer(f"themes: {error}") from None
    raise MalformedAnswer(f"themes: expected an object with a title and concepts, got {json.dumps(item)[:120]}")
