"""The command line `endcap`.

`endcap request` is the client's own; the other subcommands come with the other packages, through the entry-point group
`endcap.commands`. Each entry is a function `add_NAME_command(subparsers)` that adds its parser and sets the default
`run`, a function from the parsed arguments to an exit code. Only the subcommand that is asked for is imported.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from endcap_client.client import DEFAULT_ADDRESS, Client
from endcap_client.errors import DeadlineExceeded, EndcapError, InvalidArgument, Overloaded, Refused
from endcap_client.table import render_page, render_search, to_json
from endcap_client.types import Page, SearchResult

COMMANDS = "endcap.commands"
EXIT_CODES = (
    "exit codes: 0 done; 1 failed; 2 wrong usage or argument; 3 no connection; 4 no answer in time; 5 overloaded"
)
_EXTRAS = {"endcap_builders": "build", "endcap_server": "serving", "endcap_bench": "bench"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wanted = next((word for word in words if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="endcap",
        description="Personalised, generated storefronts and product search.",
        epilog=f"`endcap COMMAND --help` explains a command; {EXIT_CODES}",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add_request_command(subparsers)
    if wanted != "request":
        for entry in sorted(entry_points(group=COMMANDS), key=lambda entry: entry.name):
            if wanted not in (None, entry.name):
                subparsers.add_parser(entry.name)  # so that a misspelt command is answered with all the names
                continue
            problem = _add_command(subparsers, entry)
            if problem and wanted == entry.name:
                print(f"endcap {entry.name}: {problem}", file=sys.stderr)
                return 1
            if problem:
                subparsers.add_parser(entry.name, help=f"(not available here: {problem})".replace("%", "%%"))
    parsed = parser.parse_args(words)
    try:
        return int(parsed.run(parsed) or 0)
    except BrokenPipeError:
        # The reader (head, less) has seen enough; without this the interpreter complains again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _add_command(subparsers: Any, entry: EntryPoint) -> str:
    """Add the command of one package, or return in one sentence why it cannot be had."""
    package = entry.module.partition(".")[0]
    try:
        entry.load()(subparsers)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(f"{package}."):
            return f"{package} lacks its module {error.name!r}; install it again"
        extra = _EXTRAS.get(package)
        advice = f"install it with pip install 'endcap[{extra}]'" if extra else f"it is needed by {package}"
        return f"the Python package {error.name!r} is not installed in this environment; {advice}"
    except Exception as error:  # another package's failure must not take the whole command line with it
        return f"{package} cannot be loaded ({type(error).__name__}: {error})"
    return ""


def add_request_command(subparsers: Any) -> None:
    """Add `endcap request storefront|search`."""
    request = subparsers.add_parser(
        "request",
        help="ask a running server for a page or a search",
        description="Send one request to a running server and print the answer.",
        epilog=EXIT_CODES,
    )
    kinds = request.add_subparsers(dest="kind", metavar="storefront|search", required=True)
    storefront = kinds.add_parser(
        "storefront",
        help="a shopper's themed page",
        description="Print the themed page of one shopper; without history and session, that of a new shopper.",
        epilog=EXIT_CODES,
    )
    storefront.add_argument(
        "--session",
        nargs="+",
        action="extend",
        default=[],
        metavar="TEXT",
        help="search texts of this session, oldest first",
    )
    storefront.add_argument("--placements", type=int, default=4, metavar="N", help="placements (default: %(default)s)")
    search = kinds.add_parser(
        "search", help="products for a query", description="Print the products that answer a query.", epilog=EXIT_CODES
    )
    search.add_argument("--query", required=True, metavar="TEXT", help="what the shopper looks for")
    for kind in (storefront, search):
        _add_common(kind)
    storefront.set_defaults(run=_request)
    search.set_defaults(run=_request)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address", default=DEFAULT_ADDRESS, metavar="HOST:PORT", help="gRPC port of the server (default: %(default)s)"
    )
    parser.add_argument(
        "--history", nargs="+", action="extend", default=[], metavar="ID",
        help="product ids the shopper bought or engaged with, oldest first",
    )  # fmt: skip
    parser.add_argument("--rules", type=Path, metavar="FILE", help="merchandising rules, a JSON file")
    parser.add_argument(
        "--products", type=int, default=12, metavar="N", help="products per ranking (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout-s", type=float, default=2.0, metavar="S", help="deadline, seconds (default: %(default)s)"
    )
    parser.add_argument(
        "--budget-ms", type=int, metavar="N", help="time the server may spend, ms (default: the deadline less a margin)"
    )
    parser.add_argument(
        "--catalogue", type=Path, metavar="DIR",
        help="catalogue folder whose products.parquet has the titles to show (needs polars or pyarrow)",
    )  # fmt: skip
    parser.add_argument("--explain", action="store_true", help="show what each score is made of")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _request(arguments: argparse.Namespace) -> int:
    try:
        rules = _read_rules(arguments.rules)
        titles = _read_titles(arguments.catalogue)
        answer = _ask(arguments, rules)
    except EndcapError as error:
        print(f"endcap request: {error}", file=sys.stderr)
        return _exit_code(error)
    if arguments.json:
        print(to_json(answer, titles))
        return 0
    width = shutil.get_terminal_size((120, 24)).columns
    print(render_page(answer, titles, width) if isinstance(answer, Page) else render_search(answer, titles, width))
    return 0


def _ask(arguments: argparse.Namespace, rules: str | None) -> Page | SearchResult:
    common: dict[str, Any] = {
        "history": arguments.history,
        "rules": rules,
        "products": arguments.products,
        "budget_ms": arguments.budget_ms,
        "explain": arguments.explain,
    }
    with Client(arguments.address, timeout_s=arguments.timeout_s) as client:
        if arguments.kind == "search":
            return client.search(arguments.query, **common)
        return client.storefront(session=arguments.session, placements=arguments.placements, **common)


def _exit_code(error: EndcapError) -> int:
    codes = ((InvalidArgument, 2), (Refused, 3), (DeadlineExceeded, 4), (Overloaded, 5))
    return next((code for kind, code in codes if isinstance(error, kind)), 1)


def _read_rules(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument.of("--rules", "a readable JSON file", str(error)) from error


def _read_titles(catalogue: Path | None) -> dict[str, str]:
    """Product id -> title; this package installs without a Parquet reader, so it takes the one that is there."""
    if catalogue is None:
        return {}
    path = catalogue / "products.parquet"
    columns = ["product_id", "title"]
    try:
        try:
            import polars

            table: dict[str, list[Any]] = polars.read_parquet(path, columns=columns).to_dict(as_series=False)
        except ModuleNotFoundError:
            from pyarrow import parquet

            table = parquet.read_table(path, columns=columns).to_pydict()
    except ModuleNotFoundError:
        raise InvalidArgument(
            "--catalogue needs polars or pyarrow to read products.parquet, and neither is installed here; "
            "install one of them or leave the option out"
        ) from None
    except Exception as error:  # each reader has its own family of errors
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidArgument.of("--catalogue", f"{path} with columns product_id and title", problem) from error
    return {str(product_id): str(title) for product_id, title in zip(*(table[name] for name in columns), strict=True)}


if __name__ == "__main__":
    sys.exit(main())
