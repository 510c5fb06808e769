"""`endcap request`: sends a storefront, a search, or a file of both to a server, and prints the answers."""

import argparse
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from endcap_client import numbers
from endcap_client.client import DEFAULT_ADDRESS, Client
from endcap_client.errors import DeadlineExceeded, EndcapError, InvalidArgument, Overloaded, Refused
from endcap_client.options import Hedge, Options, Retry, Tls
from endcap_client.products import embedded, read_products, titles_of
from endcap_client.requests import SearchRequest, StorefrontRequest
from endcap_client.table import render_page, render_search, to_json
from endcap_client.types import Page, Product, SearchResult

EXIT_CODES = (
    "exit codes: 0 done; 1 failed; 2 wrong usage or argument; 3 no connection; 4 no answer in time; 5 overloaded"
)
_CODES = ((InvalidArgument, 2), (Refused, 3), (DeadlineExceeded, 4), (Overloaded, 5))


def add_request_command(subparsers: Any) -> None:
    """Add `endcap request storefront|search|batch`."""
    request = subparsers.add_parser(
        "request",
        help="ask a running server for a page or a search",
        description="Send one request, or a file of them, to a running server and print the answer.",
        epilog=EXIT_CODES,
    )
    kinds = request.add_subparsers(dest="kind", metavar="storefront|search|batch", required=True)
    storefront = kinds.add_parser(
        "storefront",
        help="a shopper's themed page",
        description="Print the themed page of one shopper; without history and session, that of a new shopper.",
        epilog=EXIT_CODES,
    )
    _add_texts(storefront, "--session", "TEXT", "search texts of this session, oldest first")
    storefront.add_argument(
        "--placements", type=numbers.count, default=4, metavar="N", help="placements (default: %(default)s)"
    )
    search = kinds.add_parser(
        "search", help="products for a query", description="Print the products that answer a query.", epilog=EXIT_CODES
    )
    search.add_argument("--query", required=True, metavar="TEXT", help="what the shopper looks for")
    batch = kinds.add_parser(
        "batch",
        help="a file of requests",
        description="Send the requests of a JSON-lines file side by side; print one line of JSON for each, in order. "
        "A line is an object whose keys are arguments of a storefront (history, session, rules, placements, products, "
        "timeout_s, budget_ms, explain) or, where it has a query, of a search. A request that fails is printed as "
        '{"error": ...} and sets the exit code.',
        epilog=EXIT_CODES,
    )
    batch.add_argument("file", metavar="FILE", help="JSON-lines file, or - for standard input")
    batch.add_argument(
        "--concurrency",
        type=numbers.whole(1, 1_000),
        default=8,
        metavar="N",
        help="requests at once (default: %(default)s)",
    )
    for kind in (storefront, search):
        _add_request_options(kind)
        kind.set_defaults(run=_request)
    batch.set_defaults(run=_batch)
    for kind in (storefront, search, batch):
        _add_connection_options(kind)


def _add_texts(parser: Any, option: str, metavar: str, text: str) -> None:
    parser.add_argument(option, nargs="+", action="extend", default=[], metavar=metavar, help=text)


def _add_request_options(parser: argparse.ArgumentParser) -> None:
    _add_texts(parser, "--history", "ID", "product ids the shopper bought or engaged with, oldest first")
    parser.add_argument("--rules", type=Path, metavar="FILE", help="merchandising rules, a JSON file")
    parser.add_argument(
        "--products", type=numbers.count, default=12, metavar="N", help="products per ranking (default: %(default)s)"
    )
    parser.add_argument(
        "--budget-ms",
        type=numbers.milliseconds,
        metavar="N",
        help="time the server may spend, ms (default: the deadline less a margin)",
    )
    parser.add_argument(
        "--catalogue", type=Path, metavar="DIR",
        help="catalogue folder whose products.parquet has the titles to show, and for --html brands, prices and "
        "pictures (needs polars or pyarrow)",
    )  # fmt: skip
    parser.add_argument("--explain", action="store_true", help="show what each score is made of")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON instead of a table")
    output.add_argument(
        "--html", type=Path, metavar="FILE", help="write one HTML file, which needs no network, instead of a table"
    )


def _add_connection_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--address", nargs="+", action="extend", metavar="HOST:PORT",
        help=f"gRPC port of the server, or of several in turn (default: {DEFAULT_ADDRESS})",
    )  # fmt: skip
    group.add_argument(
        "--timeout-s", type=numbers.seconds, default=2.0, metavar="S", help="deadline, seconds (default: %(default)s)"
    )
    group.add_argument(
        "--attempts",
        type=numbers.whole(1, 10),
        default=3,
        metavar="N",
        help="tries of a call; 1 turns retries off (default: %(default)s)",
    )
    group.add_argument("--hedge", action="store_true", help="ask a second address when the first one is slow")
    _add_texts(group, "--metadata", "KEY=VALUE", "headers to send")
    group.add_argument("--tls", action="store_true", help="talk TLS (also said by each of the following)")
    group.add_argument("--root-certificates", metavar="PEM", help="authorities to trust (default: the system's)")
    group.add_argument("--private-key", metavar="PEM", help="the client's key, for mTLS")
    group.add_argument("--certificate-chain", metavar="PEM", help="the client's certificate, for mTLS")
    group.add_argument("--server-name", default="", metavar="NAME", help="name in the server's certificate")


def _request(arguments: argparse.Namespace) -> int:
    try:
        rules = _read_rules(arguments.rules)
        products = read_products(arguments.catalogue) if arguments.catalogue is not None else {}
        answer = _ask(arguments, rules)
        if arguments.html is not None:
            _write_html(arguments, answer, products)
            return 0
    except EndcapError as error:
        print(f"endcap request: {error}", file=sys.stderr)
        return _exit_code(error)
    titles = titles_of(products)
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
        # The file says why each product is there.
        "explain": arguments.explain or arguments.html is not None,
    }
    with _client(arguments) as client:
        if arguments.kind == "search":
            return client.search(arguments.query, **common)
        return client.storefront(session=arguments.session, placements=arguments.placements, **common)


def _write_html(arguments: argparse.Namespace, answer: Page | SearchResult, products: dict[str, Product]) -> None:
    from endcap_client.rendering import document_html

    places = answer.placements if isinstance(answer, Page) else (answer,)
    ids = [product.product_id for place in places for product in place.products]
    title = "Storefront" if isinstance(answer, Page) else f"Search: {answer.query}"
    text = document_html([("", answer)], embedded(products, ids, arguments.catalogue), title)
    try:
        arguments.html.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidArgument.of("--html", "a file that can be written", str(error)) from error
    print(arguments.html)


def _batch(arguments: argparse.Namespace) -> int:
    try:
        requests = list(_read_requests(arguments.file))
        pages = {place: each for place, each in enumerate(requests) if isinstance(each, StorefrontRequest)}
        searches = {place: each for place, each in enumerate(requests) if isinstance(each, SearchRequest)}
        answers: dict[int, Page | SearchResult | EndcapError] = {}
        with _client(arguments) as client:
            answers.update(zip(pages, client.storefronts(pages.values(), arguments.concurrency), strict=True))
            answers.update(zip(searches, client.searches(searches.values(), arguments.concurrency), strict=True))
    except EndcapError as error:
        print(f"endcap request: {error}", file=sys.stderr)
        return _exit_code(error)
    status = 0
    for place in range(len(requests)):
        answer = answers[place]
        if isinstance(answer, EndcapError):
            status = status or _exit_code(answer)
            print(json.dumps({"error": {"reason": answer.reason, "message": str(answer)}}, ensure_ascii=False))
        else:
            print(json.dumps(json.loads(to_json(answer)), ensure_ascii=False))
    return status


def _read_requests(name: str) -> Iterable[StorefrontRequest | SearchRequest]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument.of("FILE", "a readable JSON-lines file", str(error)) from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{name}, line {number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            raise InvalidArgument.of(place, "a JSON object", str(error)) from error
        if not isinstance(values, dict):
            raise InvalidArgument.of(place, "a JSON object", line.strip()[:60])
        try:
            yield (SearchRequest if "query" in values else StorefrontRequest).from_mapping(values)
        except InvalidArgument as error:
            raise InvalidArgument.of(place, error.expected, error.got) from error


def _client(arguments: argparse.Namespace) -> Client:
    metadata = {}
    for pair in arguments.metadata:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InvalidArgument.of("--metadata", "KEY=VALUE", repr(pair))
        metadata[key] = value
    tls = None
    files = {name: getattr(arguments, name) for name in ("root_certificates", "private_key", "certificate_chain")}
    if arguments.tls or arguments.server_name or any(files.values()):
        tls = Tls(server_name=arguments.server_name, **files)
    options = Options(
        timeout_s=arguments.timeout_s,
        tls=tls,
        metadata=metadata,
        retry=Retry(attempts=arguments.attempts),
        hedge=Hedge() if arguments.hedge else None,
    )
    return Client(arguments.address or DEFAULT_ADDRESS, options=options)


def _exit_code(error: EndcapError) -> int:
    return next((code for kind, code in _CODES if isinstance(error, kind)), 1)


def _read_rules(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument.of("--rules", "a readable JSON file", str(error)) from error
