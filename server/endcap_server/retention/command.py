"""`endcap exposures` on the command line."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from endcap_client import numbers

from endcap_server.exposures.folder import ExposureFolder
from endcap_server.retention.place import Place, RetentionError
from endcap_server.retention.prepared import erase_prepared
from endcap_server.retention.removal import erase, prune

_STANDARD_INPUT = "-"


def add_exposures_command(subparsers: Any) -> None:
    """Add `endcap exposures` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "exposures",
        help="the records of what was shown: count, erase, prune",
        description="Count what servers have recorded of pages and searches, erase the records of a shopper, or those "
        "of an age (docs/exposures.md). Servers may run meanwhile.",
    )
    commands = parser.add_subparsers(dest="exposures_command", metavar="COMMAND", required=True)
    showing = commands.add_parser(
        "show",
        help="count what was recorded and what was lost",
        description="Count what was recorded, dropped, failed, or lost with a process that was killed.",
    )
    showing.add_argument("--json", action="store_true", help="print one JSON document")
    _add(showing, _show)
    erasing = commands.add_parser(
        "erase",
        help="erase the records and the prepared page of a shopper",
        description="Remove all records of a shopper that were made before this call, and the prepared page. The key "
        "is hashed with the secret of the build that is served. Records in Kafka stay.",
    )
    erasing.add_argument(
        "--shopper",
        action="append",
        required=True,
        metavar="KEY",
        help=f"key as in SHOPPER; may be repeated; {_STANDARD_INPUT}: keys from the standard input, one a line",
    )
    _add(erasing, _erase)
    pruning = commands.add_parser(
        "prune",
        help="remove records of an age",
        description="Remove all records that are older. Servers do so themselves after exposure_days of fusion, and "
        "above exposure_megabytes.",
    )
    pruning.add_argument(
        "--older-than", required=True, type=numbers.number(0, 100_000), metavar="DAYS", help="age in days"
    )
    _add(pruning, _prune)


def _add(parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("--build", type=Path, metavar="DIR", help="the build that is served (default: the one that is)")
    parser.add_argument(
        "--exposures", type=Path, metavar="DIR", help="folder of the exposures (default: that of the server)"
    )
    parser.set_defaults(run=_reporting(work))


def _reporting(work: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        try:
            return work(arguments)
        except ModuleNotFoundError as error:
            print(f"endcap exposures: {error}; install it with pip install 'endcap[exposures]'", file=sys.stderr)
        except (RetentionError, OSError) as error:
            print(f"endcap exposures: {error}", file=sys.stderr)
        return 1

    return run


def _show(arguments: argparse.Namespace) -> int:
    folder = ExposureFolder(Place.find(arguments.build, arguments.exposures).folder)
    files = [*folder.segments(), *folder.journals()]
    totals = folder.totals()
    totals["waiting"] = totals["offered"] - sum(totals[name] for name in ("written", "dropped", "failed", "lost"))
    document = {"folder": str(folder.path), "files": len(files), "bytes": folder.size(), **totals}
    if arguments.json:
        print(json.dumps(document))
    else:
        for name, value in document.items():
            print(f"{name}: {value}")
    return 0


def _erase(arguments: argparse.Namespace) -> int:
    place = Place.find(arguments.build, arguments.exposures)
    keys: list[bytes] = []
    for key in arguments.shopper:
        given = (
            sys.stdin.buffer.read().splitlines() if key == _STANDARD_INPUT else [key.encode(errors="surrogateescape")]
        )
        keys += given
    hashes = place.hashes(keys)
    rows, files = erase(ExposureFolder(place.folder), hashes, _tracked)
    print(f"{rows} records of {len(set(hashes))} shoppers removed from {files} files in {place.folder}")
    pages, store = erase_prepared(place.build, hashes, place.keys().identity)
    print(f"{pages} prepared pages removed from {store}")
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    place = Place.find(arguments.build, arguments.exposures)
    rows, files = prune(ExposureFolder(place.folder), arguments.older_than, _tracked)
    print(f"{rows} records older than {arguments.older_than:g} days removed from {files} files in {place.folder}")
    return 0


def _tracked(items: list[Any]) -> Iterable[Any]:
    """Go through a list with a progress bar, where rich is installed."""
    try:
        from rich.console import Console
        from rich.progress import track
    except ModuleNotFoundError:
        return items
    return track(items, description="files", console=Console(stderr=True), transient=True)
