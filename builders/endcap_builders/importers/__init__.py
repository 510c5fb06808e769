"""Importers: each turns a data set in its published layout into a catalogue folder."""

import inspect
from collections.abc import Callable
from pathlib import Path

from endcap_builders.catalogue.schema import Catalogue, CatalogueError
from endcap_builders.importers.completejourney import import_completejourney
from endcap_builders.importers.esci import import_esci
from endcap_builders.importers.graded import import_crowdflower, import_homedepot
from endcap_builders.importers.icecat import import_icecat
from endcap_builders.importers.instacart import import_instacart
from endcap_builders.importers.movielens import import_movielens
from endcap_builders.importers.wands import import_wands

IMPORTERS: dict[str, Callable[..., Catalogue]] = {
    "homedepot": import_homedepot,
    "crowdflower": import_crowdflower,
    "completejourney": import_completejourney,
    "instacart": import_instacart,
    "esci": import_esci,
    "icecat": import_icecat,
    "movielens": import_movielens,
    "wands": import_wands,
}

__all__ = ["IMPORTERS", "run_importer", *(function.__name__ for function in IMPORTERS.values())]


def run_importer(name: str, source: Path, target: Path, **options: str | None) -> Catalogue:
    """Imports ``source`` with the importer ``name`` into the catalogue folder ``target``.

    Args:
        name: a key of ``IMPORTERS``.
        source: folder with the data set's files.
        target: catalogue folder, replaced if there is one.
        options: options of that importer, such as ``split`` or ``locale``; None stands for "not given".

    Raises:
        CatalogueError: unknown importer or option, or anything wrong with the source.
    """
    if name not in IMPORTERS:
        raise CatalogueError([f"importer: expected one of {', '.join(IMPORTERS)}, got {name!r}"])
    given = {option: value for option, value in options.items() if value is not None}
    known = list(inspect.signature(IMPORTERS[name]).parameters)[2:]
    for option in given:
        if option not in known:
            choices = ", ".join(known) or "(none)"
            raise CatalogueError(
                [f"option {option}: expected one of {choices} for {name}, got {option!r}; leave it out"]
            )
    return IMPORTERS[name](Path(source), Path(target), **given)
