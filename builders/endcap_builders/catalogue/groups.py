"""The catalogue in groups of columns: a build step declares which it reads, and runs again only if those change."""

import hashlib
from dataclasses import fields
from typing import Any

import polars as pl

from endcap_builders.catalogue.schema import Catalogue

TEXTS, CAPTIONS, FACTS = "texts", "captions", "facts"
EVENTS, QUERIES, JUDGEMENTS = "events", "queries", "judgements"
GROUPS = (TEXTS, CAPTIONS, FACTS, EVENTS, QUERIES, JUDGEMENTS)
FACT_COLUMNS = ("price", "in_stock")
"""Columns of products that change often; all others but the captions are texts."""
CAPTION_COLUMNS = ("caption",)
_COLUMNS_OF = {FACTS: FACT_COLUMNS, CAPTIONS: CAPTION_COLUMNS}
_ROWS = 65_536


def group_digests(catalogue: Catalogue) -> dict[str, str]:
    """Hash of each group's values, independent of files; "" for a missing table."""
    facts = [name for name in catalogue.products.columns if name in FACT_COLUMNS]
    captions = [name for name in catalogue.products.columns if name in CAPTION_COLUMNS]
    return {
        TEXTS: _digest(catalogue.products.drop(*facts, *captions)),
        CAPTIONS: _digest(catalogue.products.select("product_id", *captions)),
        # Include the ids: the same prices of other products are other facts.
        FACTS: _digest(catalogue.products.select("product_id", *facts)),
        **{name: _digest(getattr(catalogue, name)) for name in (EVENTS, QUERIES, JUDGEMENTS)},
    }


def restricted(catalogue: Catalogue, groups: frozenset[str]) -> Catalogue:
    """The catalogue for a step that reads only these groups, without the others."""
    unread = [name for group, names in _COLUMNS_OF.items() if group not in groups for name in names]
    products = catalogue.products.drop(unread, strict=False)
    values = {each.name: getattr(catalogue, each.name) for each in fields(Catalogue)}
    found = _Restricted(**values | {"products": products})
    object.__setattr__(found, "groups", groups)
    return found


class _Restricted(Catalogue):
    """Raises if a step reads a table that it does not declare, because it would miss changes of the table."""

    def __getattribute__(self, name: str) -> Any:
        group = TEXTS if name == "products" else name
        if group in GROUPS and group not in object.__getattribute__(self, "__dict__").get("groups", GROUPS):
            raise LookupError(
                f"a build step reads {name} of the catalogue without saying so in Step.reads: add {group}"
            )
        return object.__getattribute__(self, name)


def _digest(frame: pl.DataFrame | None) -> str:
    if frame is None:
        return ""
    digest = hashlib.sha256(repr(frame.schema).encode())
    # As CSV, which is stable across versions of polars; in parts, because CSV needs more memory than the table.
    for part in frame.iter_slices(_ROWS):
        digest.update(part.write_csv(datetime_format="%s%.f").encode())
    return digest.hexdigest()[:16]
