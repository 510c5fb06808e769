"""Names of kinds in shoppers' words: what the titles of a category's products call it, rather than the shop's code.

"Baked Bread, Buns, Rolls" is "baked bread" where most of its sales are breads, and "Candy, Packaged" is "packaged
candy".
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from endcap_server.shop.prompts import label_name
from endcap_server.shop.words import LITTLE_WORDS, stem, stems, words

from endcap_builders.catalogue.schema import PATH_SEPARATOR
from endcap_builders.catalogue.shopper_words import FILLERS

_ALTERNATIVES = re.compile(r"\s*[,/]\s*")
# Words at the end of a label that say nothing to shoppers: "Fluid Milk Products".
_GENERIC = frozenset(["products", "items"])
# Shares of a category's sales whose titles have a word.
_NEVER = 0.02
_SOME = 0.1
_MOST = 0.5
# A category keeps a name that others have too if this share of their sales is its own.
_DOMINANT = 0.8

Evidence = Mapping[str, float]
"""Share of a category's sales whose titles have a word, by the word's stem."""


def kind_names(
    labels: Mapping[str, str], path_of: Sequence[str], titles: Sequence[str], sales: Sequence[float]
) -> dict[str, str]:
    """The name of each category, in lower case.

    Args:
        labels: label of each category path.
        path_of: category path of each product; "" if none.
        titles: title of each product.
        sales: >= 0, how much each product sells.

    Returns:
        A name for each path of ``labels``. Two categories have one name only where their labels are equal.
    """
    evidence, total = _evidence(path_of, titles, sales)
    choices = {path: shopper_names(_own_label(path, label), evidence[path]) for path, label in labels.items()}
    wanted: dict[str, list[str]] = defaultdict(list)
    for path, texts in choices.items():
        for name in dict.fromkeys(texts):
            wanted[name].append(path)
    names = {path: label_name(label) for path, label in labels.items()}
    for path, texts in choices.items():
        for name in texts:
            whole = sum(total[other] for other in wanted[name])
            if len(wanted[name]) == 1 or total[path] >= _DOMINANT * whole > 0:
                names[path] = name
                break
    return names


def shopper_names(label: str, evidence: Evidence) -> list[str]:
    """Names of a category by the part of its label that the titles of its products use, the shortest first.

    A label lists alternatives between commas or slashes. The alternative whose last word most sales have is the name,
    else the first one. If titles do not have the second of two, it describes the first: "Candy, Packaged" is "candy",
    or "packaged candy".
    """
    parts = [part for part in map(_without_fillers, _ALTERNATIVES.split(label)) if part]
    if not parts:
        return [label_name(label)]
    strength = [_of_last(part, evidence) for part in parts]
    best = max(range(len(parts)), key=lambda index: (strength[index], -index))
    if len(parts) == 2 and strength[1] < _NEVER and not parts[1].lower().endswith("s"):
        described = f"{parts[1]} {parts[0]}"
        names = [parts[0], described] if strength[0] >= _MOST else [described]
    else:
        names = [parts[best] if strength[best] >= _SOME else parts[0]]
    return [label_name(name) for name in [*names, label]]


def _of_last(part: str, evidence: Evidence) -> float:
    return _share((part.split() or [""])[-1], evidence)


def _share(text: str, evidence: Evidence) -> float:
    return max((evidence.get(stem(word), 0.0) for word in words(text)), default=0.0)


def _without_fillers(part: str) -> str:
    kept = [word for word in part.split() if word.lower() not in FILLERS]
    if len(kept) > 1 and kept[-1].lower() in _GENERIC and kept[-2].lower() not in LITTLE_WORDS:
        kept.pop()
    return " ".join(kept)


def _own_label(path: str, label: str) -> str:
    """The label without the name of a category above, which tells it from others."""
    own = path.rpartition(PATH_SEPARATOR)[2].strip()
    return own if own and label.lower().endswith(own.lower()) else label


def _evidence(
    path_of: Sequence[str], titles: Sequence[str], sales: Sequence[float]
) -> tuple[defaultdict[str, Counter[str]], Counter[str]]:
    total: Counter[str] = Counter()
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for path, title, weight in zip(path_of, titles, sales, strict=True):
        total[path] += weight  # type: ignore[assignment]
        for part in stems(title):
            found[path][part] += weight  # type: ignore[assignment]
    for path, counts in found.items():
        whole = total[path] or 1.0
        for part in counts:
            counts[part] /= whole  # type: ignore[assignment]
    return found, total
