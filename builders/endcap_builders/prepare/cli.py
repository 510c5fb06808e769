"""`endcap prepare` on the command line."""

import argparse
from pathlib import Path
from typing import Any

from endcap_client import numbers

from endcap_builders.cli import reporting


def add_prepare_command(subparsers: Any) -> None:
    """Add `endcap prepare` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "prepare",
        help="make the themes of shoppers before they ask",
        description="Run retrieval, theme and keywords for many shoppers, and write themes with keywords to a store "
        "that servers read: a request with SHOPPER then needs no language model, as long as its history and session "
        "have hardly changed. Pages that are up to date stay; an interrupted run goes on where it stopped. See "
        "docs/offline.md.",
    )
    parser.add_argument("--build", type=Path, required=True, metavar="DIR", help="the build that makes the pages")
    parser.add_argument(
        "--shoppers",
        type=Path,
        required=True,
        metavar="FILE",
        help='JSON lines {"shopper": KEY, "history": [ID, ...], "session": [TEXT, ...]}, oldest first, or a .parquet '
        "file with these columns; session is optional",
    )
    parser.add_argument(
        "--store",
        default="",
        metavar="DIR|redis://...",
        help="folder (LMDB) or Redis server (redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]) of the pages (default: "
        "as prepared_store of the build's theme says, else BUILD/prepared)",
    )
    parser.add_argument(
        "--secret", type=Path, metavar="FILE", help="of the build that is served (default: exposures.key of --build)"
    )
    parser.add_argument(
        "--placements",
        type=numbers.count,
        default=4,
        metavar="P",
        help="placements of a page; pages of requests for more are not prepared (default: %(default)s)",
    )
    parser.add_argument(
        "--max-age-hours",
        type=numbers.number(0, 24 * 365),
        default=24.0,
        metavar="HOURS",
        help="older pages are made again, 0: all (default: %(default)s)",
    )
    parser.add_argument(
        "--ray",
        default="",
        metavar="ADDRESS",
        help="make the pages on a Ray cluster whose nodes have endcap and can read --build at the same path; local: "
        "one on this machine (default: in this process)",
    )
    parser.set_defaults(run=reporting(_prepare))


def _prepare(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from endcap_builders.prepare.command import PrepareRequest, run_prepare

    request = PrepareRequest(
        build=arguments.build,
        shoppers=arguments.shoppers,
        store=arguments.store,
        secret=arguments.secret,
        placements=arguments.placements,
        max_age_hours=arguments.max_age_hours,
        ray=arguments.ray,
    )
    run_prepare(request, Console())
    return 0
