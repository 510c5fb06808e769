"""`endcap facts` on the command line."""

import argparse
import json
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from endcap_server.facts.catalogues import Catalogues
from endcap_server.facts.files import STANDARD_INPUT, Row, read_file
from endcap_server.facts.place import Place
from endcap_server.facts.records import RESERVED, KnownNames, Problem, check_records
from endcap_server.shop.facts_journal import FactsError
from endcap_server.shop.facts_state import FactsState, FactsWriter
from endcap_server.shop.facts_writer import JournalWriter
from endcap_server.shop.standing_rules import StandingRule
from endcap_server.shop.store import ItemStore
from endcap_server.stages.status import utc_time

_MOST_PROBLEMS = 20


def add_facts_command(subparsers: Any) -> None:
    """Add `endcap facts` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "facts",
        help="stock, prices and standing rules of a running shop",
        description="Set and show what changes between two builds: stock, prices and standing rules. Servers show a "
        "change within a second, without a reload (docs/facts.md).",
    )
    commands = parser.add_subparsers(dest="facts_command", metavar="COMMAND", required=True)
    setting = commands.add_parser(
        "set",
        help="take the facts of a file",
        description="Take the records of a Parquet, CSV or JSON lines file: product_id with stock, in_stock, price and "
        "time, or rule with subject, factor, to, start, end, reason and author. All of them, or none if one is wrong.",
    )
    setting.add_argument("file", metavar="FILE", help=f"FILE.parquet, .csv or .jsonl; {STANDARD_INPUT}: standard input")
    setting.add_argument(
        "--column",
        action="append",
        default=[],
        type=_column,
        metavar="NAME",
        help="take this numeric column of the file, such as margin, for boost and bury by column:NAME, and ignore the "
        "file's other columns",
    )
    setting.add_argument("--keep-good", action="store_true", help="take the good records although others are wrong")
    _add_place(setting)
    setting.set_defaults(run=_reporting(_set))
    following = commands.add_parser(
        "follow",
        help="take the facts of a Redis stream",
        description="Take the entries of a Redis stream as records, in their order, until it is stopped. Each is "
        "acknowledged when it is on disk; after a stop, it goes on there. Entries that are wrong go to STREAM:dead.",
    )
    following.add_argument("address", metavar="redis://HOST/STREAM", help="redis[s]://[USER@]HOST[:PORT]/[DB/]STREAM")
    following.add_argument(
        "--group", help="consumer group, whose position is kept by Redis (default: one of this folder of facts)"
    )
    following.add_argument(
        "--password-file", type=Path, metavar="FILE", help="file with the password, which an address would show"
    )
    _add_place(following)
    following.set_defaults(run=_reporting(_follow))
    showing = commands.add_parser(
        "show",
        help="the facts of a product",
        description="Show the facts of a product beside the catalogue's values, and the standing rules about it; "
        "without a product, all standing rules.",
    )
    showing.add_argument("product", nargs="?", metavar="PRODUCT", help="a product id")
    showing.add_argument("--json", action="store_true", help="print one JSON document")
    _add_place(showing)
    showing.set_defaults(run=_reporting(_show))


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--build", type=Path, metavar="DIR", help="the build that is served (default: the one that is)")
    parser.add_argument("--facts", type=Path, metavar="DIR", help="folder of the facts (default: that of the server)")


def _reporting(work: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        try:
            return work(arguments)
        except FactsError as error:
            print(f"endcap facts: {error}", file=sys.stderr)
            return 1

    return run


def _set(arguments: argparse.Namespace) -> int:
    place = Place.find(arguments.build, arguments.facts)
    rows, columns = read_file(arguments.file), arguments.column or FactsState.read(place.folder).own_columns
    if arguments.column:
        # A file with other columns, such as a catalogue's.
        rows = _restricted(rows, arguments.column)
    found = check_records(rows, KnownNames(place.stores()), columns=columns)
    _report(arguments.file, found.problems)
    if found.problems and not arguments.keep_good:
        print("endcap facts: nothing was taken; correct these, or use --keep-good for the others", file=sys.stderr)
        return 1
    started = time.monotonic()
    writer = FactsWriter(place.folder, f"endcap facts set {arguments.file}")
    taken = writer.write(found.changes, found.rules)
    line = f"{taken} values and {len(found.rules)} rules set in {time.monotonic() - started:.2f} s"
    older = len(found.changes) - taken
    print(line + (f"; {older} values are older than others, or said again" if older else ""))
    return 1 if found.problems else 0


def _follow(arguments: argparse.Namespace) -> int:
    try:
        from endcap_server.facts.stream import StreamAddress, StreamFollower
    except ModuleNotFoundError:
        raise FactsError("streams need redis-py; install it with pip install 'endcap[facts]'") from None
    place = Place.find(arguments.build, arguments.facts)
    address = StreamAddress.read(arguments.address, _password(arguments.password_file))
    group = arguments.group or f"endcap:{socket.gethostname()}:{place.folder.resolve()}"
    catalogues = Catalogues(place)
    catalogues.known()

    def report(line: str) -> None:
        print(f"endcap facts: {line}", file=sys.stderr, flush=True)

    follower = StreamFollower(
        address, group, FactsWriter(place.folder, f"endcap facts follow {address.shown}"), catalogues.known, report
    )
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with JournalWriter(place.folder, f"endcap facts follow {address.shown}").locked(0, f"follow-{address.digest}"):
        report(f"follows {address.shown} as group {group}; Ctrl-C stops")
        follower.run(stopped)
    report(f"stopped; {follower.taken} entries taken, {follower.refused} refused")
    return 0


def _password(file: Path | None) -> str | None:
    try:
        return None if file is None else file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise FactsError(f"{file}: expected a file with a password, got {error}") from None


def _column(text: str) -> str:
    if not re.fullmatch("[a-z][a-z0-9_]{0,40}", text) or text in RESERVED:
        raise argparse.ArgumentTypeError(
            f"expected a name of small letters, digits and _ except {', '.join(sorted(RESERVED))}, got {text!r}"
        )
    return text


def _restricted(rows: Iterable[Row], columns: Collection[str]) -> Iterator[Row]:
    """The rows with a value of these columns, without others."""
    kept = {"product_id", "time", *columns}
    for row, fields in rows:
        if isinstance(fields, Problem):
            yield row, fields
        elif not fields.keys().isdisjoint(columns):
            yield row, {name: value for name, value in fields.items() if name in kept}


def _report(name: str, problems: Sequence[Problem]) -> None:
    for problem in problems[:_MOST_PROBLEMS]:
        print(f"{name}, {problem}", file=sys.stderr)
    if len(problems) > _MOST_PROBLEMS:
        print(f"... and {len(problems) - _MOST_PROBLEMS} more", file=sys.stderr)


def _show(arguments: argparse.Namespace) -> int:
    place = Place.find(arguments.build, arguments.facts)
    state = FactsState.read(place.folder)
    document: dict[str, Any] = {"facts_as_of": None if state.as_of is None else utc_time(state.as_of)}
    rules = list(state.rules.values())
    if arguments.product is not None:
        of_product = _of_product(arguments.product, place, state)
        rules = [rule for rule in rules if _is_about(rule, of_product)]
        document |= of_product
    document["rules"] = [_rule(rule) for rule in rules]
    if arguments.json:
        print(json.dumps(document, ensure_ascii=False))
    else:
        for name, value in document.items():
            _print(name, value)
    return 0


def _of_product(product: str, place: Place, state: FactsState) -> dict[str, Any]:
    facts = {
        name: {"value": value, "since": utc_time(since), "from": "facts"}
        for name, (value, since) in state.of(product).items()
    }
    for store in place.stores():
        row = int(store.product_ids.find([product])[0])
        if row >= 0:
            return _of_catalogue(store, row, facts)
    raise FactsError(f"{product!r}: expected a product of {place.build}, found none; ids are compared exactly")


def _of_catalogue(store: ItemStore, row: int, facts: dict[str, Any]) -> dict[str, Any]:
    price = float(store.price[row])
    catalogue = {
        "in_stock": {"value": float(store.in_stock[row]), "from": "catalogue"},
        "price": {"value": None if price != price else price, "from": "catalogue"},
    }
    brand, category = int(store.brand[row]), int(store.category[row])
    return {
        "product_id": store.product_ids[row],
        "title": store.titles[row],
        "brand": store.brands[brand] if brand >= 0 else "",
        "category": store.categories[category] if category >= 0 else "",
        "values": catalogue | facts,
    }


def _is_about(rule: StandingRule, product: dict[str, Any]) -> bool:
    """Whether a rule applies to a product."""
    return rule.names(product["product_id"], product["brand"], product["category"])


def _rule(rule: StandingRule) -> dict[str, Any]:
    document = rule.model_dump(mode="json", exclude_none=True)
    times = {name: utc_time(document[name]) for name in ("start", "end") if name in document}
    return document | times | {"holds": rule.holds(time.time())}


def _print(name: str, value: Any) -> None:
    if isinstance(value, dict):
        for part, content in value.items():
            print(f"{part}: {content['value']} ({content['from']}{_since(content)})")
    elif isinstance(value, list):
        print(f"{name}: {len(value) or 'none'}")
        for rule in value:
            factor = f" x {rule['factor']:g}" if "factor" in rule else ""
            span = f"{rule.get('start', '')}..{rule.get('end', '')}"
            state = "" if rule["holds"] else " (does not hold now)"
            to = f" to {rule['to']!r}" if "to" in rule else ""
            author = f" ({rule['author']})" if rule.get("author") else ""
            print(f"  {rule['rule']} {rule['subject']}{factor}{to} {span}{state}: {rule['reason']}{author}")
    else:
        print(f"{name}: {value}")


def _since(content: dict[str, Any]) -> str:
    return f", since {content['since']}" if "since" in content else ""
