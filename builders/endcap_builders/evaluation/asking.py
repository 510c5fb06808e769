"""Requests the pages of shoppers and stores each answer, so that an interrupted evaluation can continue."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from endcap_client import Client, EndcapError, Page
from endcap_server.launch import Server, ServerOptions

from endcap_builders.evaluation.pages import Shopper
from endcap_builders.evaluation.queries import EvaluationError
from endcap_builders.step import BuildContext

MAX_HISTORY = 200
"""Newest events of a shopper in a request."""


@dataclass(frozen=True)
class ShownPlacement:
    """One placement of an answered page; `source` is its source in STATUS."""

    title: str
    source: str
    products: tuple[str, ...]


@dataclass(frozen=True)
class ShownPage:
    """An answered page.

    Attributes:
        placements: from the top of the page.
        stages: source of each stage's part.
        ms: round trip.
    """

    placements: tuple[ShownPlacement, ...]
    stages: Mapping[str, str]
    ms: float

    @property
    def products(self) -> list[str]:
        """All products, in the order of the page."""
        return [product for placement in self.placements for product in placement.products]

    @classmethod
    def of(cls, page: Page) -> "ShownPage":
        """Convert the answer of a client."""
        stages = {name: stage.source for name, stage in page.status.stages.items()}
        said = page.status.document.get("placements") or []
        placements = tuple(
            ShownPlacement(
                placement.theme,
                said[place]["source"] if place < len(said) else stages.get("theme", ""),
                tuple(product.product_id for product in placement.products),
            )
            for place, placement in enumerate(page.placements)
        )
        return cls(placements, stages, round(1e3 * page.seconds, 3))

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "ShownPage":
        """Read the page from a line of the file of answers."""
        placements = (
            ShownPlacement(**{**each, "products": tuple(each["products"])}) for each in document["placements"]
        )
        return cls(tuple(placements), document["stages"], document["ms"])


class Shop(Protocol):
    """A source of pages."""

    def page(self, history: Sequence[str], placements: int, products: int) -> ShownPage:
        """The page of a shopper with this history, oldest first."""
        ...


class ServedShop:
    """A running server; gets one request at a time."""

    def __init__(self, client: Client):
        self._client = client

    def page(self, history: Sequence[str], placements: int, products: int) -> ShownPage:
        """The page of a shopper with this history, oldest first.

        Raises:
            EvaluationError: the server does not answer.
        """
        try:
            return ShownPage.of(self._client.storefront(history, placements=placements, products=products))
        except EndcapError as error:
            raise EvaluationError(f"a page of {len(history)} products of history: {error}") from error


@contextmanager
def connected(build: Path, address: str, timeout_s: float) -> Iterator[Client]:
    """A client of the server at `address`; without an address, of a new server of this build, stopped at the end.

    Raises:
        LaunchError: The server does not start.
    """
    if address:
        with Client(address, timeout_s=timeout_s) as client:
            yield client
        return
    options = ServerOptions(build=build, grpc_port=0, http_port=0, metrics_port=0)
    with Server(options) as server, Client(server.grpc_address, timeout_s=timeout_s) as client:
        yield client


class Answers:
    """The file of answers: a line that describes the requests, then one line for each page.

    Args:
        path: the file; existing answers are used if their requests were the same.
        asked: everything but the shopper that determines an answer.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any]):
        self._path = path
        self._pages: dict[tuple[str, str], ShownPage] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines and json.loads(lines[0]) == asked:
            # The last line is incomplete if the evaluation was interrupted.
            for line in filter(lambda text: text.endswith("}"), lines[1:]):
                document = json.loads(line)
                self._pages[document["shop"], document["user"]] = ShownPage.read(document)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asked) + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return len(self._pages)

    def ask(
        self, ctx: BuildContext, shops: Mapping[str, Shop], shoppers: Sequence[Shopper], placements: int, products: int
    ) -> dict[str, list[ShownPage]]:
        """The pages of every shop for every shopper, in alternation; requests only missing ones."""
        with self._path.open("a", encoding="utf-8") as file:
            for number, shopper in enumerate(ctx.track(shoppers, "pages", len(shoppers))):
                # Alternate the order, because the second shop finds warm caches.
                for name in sorted(shops, reverse=number % 2 == 1):
                    if (name, shopper.user_id) in self._pages:
                        continue
                    page = shops[name].page(shopper.history[-MAX_HISTORY:], placements, products)
                    self._pages[name, shopper.user_id] = page
                    line = {"shop": name, "user": shopper.user_id, **asdict(page)}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    file.flush()
        return {name: [self._pages[name, shopper.user_id] for shopper in shoppers] for name in shops}
