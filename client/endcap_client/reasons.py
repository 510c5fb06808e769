"""Why a product stands where it does, as a sentence, from its signals and the source of its placement."""

from collections.abc import Iterable

from endcap_client.types import Placement, ScoredProduct

SIGNAL_MEANINGS = {
    "margin": "wins against the other products",
    "relevance": "fits the theme or search",
    "similarity": "close to the theme or search in meaning",
    "lexical": "has the words of the search",
    "ranker": "likely to be bought by this shopper",
    "popularity": "popularity",
    "retrieval": "place among the candidates",
    "rule": "factor of rules",
    "diversity": "lowered, because it is like products above",
    "pinned": "put first by a rule",
}
"""What each signal of the contract means."""
_OF_SOURCE = {
    "classic:buy_again": "bought before",
    "classic:together": "goes with what the shopper buys",
    "classic:popular": "sells well now",
}
_DOUBTFUL, _AVERAGE = 0.05, 0.5


def reason(placement: Placement, product: ScoredProduct) -> str:
    """Return a sentence on why a product stands in a placement; "" if nothing is known (an answer without signals)."""
    return sentence(reasons(placement, product))


def sentence(parts: Iterable[str]) -> str:
    """Return parts as one sentence."""
    text = "; ".join(dict.fromkeys(part for part in parts if part))
    return text[:1].upper() + text[1:]


def reasons(placement: Placement, product: ScoredProduct) -> list[str]:
    """Return what the signals of a product say, the weightiest first."""
    signals = product.signals
    if not signals:
        return []
    value = {name: signals.get(name, 0.0) for name in SIGNAL_MEANINGS}
    is_search = placement.source in ("search", "session")
    found = [_pinned(is_search)] if value["pinned"] > 0 else []
    found.append(_OF_SOURCE.get(placement.source, ""))
    meant = "search" if is_search else "theme"
    if value["relevance"] > 0:
        found.append(f"fits the {meant} {value['relevance']:.2f}")
    elif value["similarity"] > 0:
        found.append(f"close to the {meant} {value['similarity']:.2f}")
    if value["lexical"] > 0:
        found.append(f"has the words of the search {value['lexical']:.2f}")
    if value["ranker"] >= _DOUBTFUL:
        # The signal maps the mean candidate's probability to 0.5; it is no probability itself.
        more = "more" if value["ranker"] >= _AVERAGE else "less"
        found.append(f"{more} likely to be bought than average ({value['ranker']:.2f})")
    if value["rule"] > 0 and abs(value["rule"] - 1) > 1e-6:
        found.append(f"{'raised' if value['rule'] > 1 else 'lowered'} by a rule x {value['rule']:g}")
    if value["diversity"] > 0:
        found.append("lowered, because it is like a product above")
    return [part for part in found if part] or ["one of the candidates"]


def _pinned(is_search: bool) -> str:
    return "named by the search, or put first by a rule" if is_search else "put first by a rule"
