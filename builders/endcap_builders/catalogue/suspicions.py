"""Warnings about a valid catalogue with suspicious values."""

import polars as pl

from endcap_builders.catalogue.check import ROWS_SHOWN
from endcap_builders.markup import has_entity, has_tag

# Texts that programs write for missing values.
NO_VALUE = ("nan", "null", "none", "n/a", "na", "undefined", "nil", "<na>", "nat", "#n/a")


def suspicions(products: pl.DataFrame, events: pl.DataFrame | None) -> list[str]:
    """One sentence for each kind of suspicious value: how many, the first rows, what to do.

    Args:
        products: checked products, with rows as in the file.
        events: checked events, or None.
    """
    titles = products["title"]
    marked = titles.filter(titles.str.contains("[<&]"))
    odd = {text for text in marked.unique() if has_entity(text)}, {text for text in marked.unique() if has_tag(text)}
    entities, tags = (titles.is_in(list(texts)) for texts in odd)
    found = [
        _rows("title", titles, entities, "HTML entities", "unescape them, e.g. with Python's html.unescape"),
        _rows("title", titles, tags, "HTML tags", "store plain text"),
        _rows(
            "title",
            titles,
            titles.str.to_lowercase().is_in(NO_VALUE),
            "a word for no value instead of a title",
            "leave these products out, or give them titles",
        ),
    ]
    if not products["in_stock"].any():
        found.append(
            f"products, column in_stock: all {products.height:,} products are out of stock, so no page will show any; "
            "set it to true for what can be bought, or leave the column out"
        )
    found.append(_alike("products", products["product_id"]))
    if events is not None:
        found.append(_alike("events", events["user_id"].unique(maintain_order=True)))
    return [sentence for sentence in found if sentence]


def _rows(column: str, values: pl.Series, odd: pl.Series, what: str, advice: str) -> str:
    rows = odd.arg_true()
    if rows.is_empty():
        return ""
    shown = ", ".join(f"{values[row][:60]!r} in row {row}" for row in rows.head(ROWS_SHOWN))
    return f"products, column {column}: {len(rows):,} of {len(values):,} rows have {what} ({shown}); {advice}"


def _alike(table: str, ids: pl.Series) -> str:
    """Distinct ids that are equal without white space and case."""
    plain = ids.str.replace_all(r"\s+", "").str.to_lowercase()
    groups = (
        pl.DataFrame({"plain": plain, "id": ids})
        .group_by("plain", maintain_order=True)
        .agg(pl.col("id"))
        .filter(pl.col("id").list.len() > 1)["id"]
    )
    if groups.is_empty():
        return ""
    shown = "; ".join(" and ".join(repr(one[:60]) for one in group[:ROWS_SHOWN]) for group in groups.head(ROWS_SHOWN))
    return (
        f"{table}, column {ids.name}: {len(groups):,} ids are written in several ways that differ by white space or "
        f"case only ({shown}); they count as different, write each in one way if they are the same"
    )


def likely_cause(ids: pl.Series, known: pl.Series) -> str:
    """Why ``ids`` (unknown ones) are not among ``known``: the change that makes most of them known, or ""."""
    changes = {
        "end in '.0' (pandas makes whole numbers floats where one is missing: convert to int64 before writing)": (
            lambda column: column.str.replace(r"\.0+$", "")
        ),
        "differ by white space only": lambda column: column.str.replace_all(r"\s+", ""),
        "differ by case only": lambda column: column.str.to_lowercase(),
        "differ by leading zeros only": lambda column: column.str.replace(r"^0+(.)", "$1"),
    }
    ids = ids.unique(maintain_order=True)
    for cause, change in changes.items():
        count = int(change(ids).is_in(change(known).implode()).sum())
        if count:
            return f"{count:,} of the {len(ids):,} unknown ids {cause}"
    return ""
