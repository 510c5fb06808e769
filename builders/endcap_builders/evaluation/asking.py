"""Asks for the pages of shoppers, and keeps each answer as it comes: an interrupted evaluation goes on from there."""

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
from endcap_builders.pipeline import BuildContext

MAX_HISTORY = 200
"""Newest events of a shopper that a request carries."""


@dataclass(frozen=True)
class ShownPlacement:
    """One placement of an answered page; `source` says how its theme came to be."""

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
        """What a client was answered."""
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
        """The page of a line of the file of answers."""
        placements = (
            ShownPlacement(**{**each, "products": tuple(each["products"])}) for each in document["placements"]
        )
        return cls(tuple(placements), document["stages"], document["ms"])


class Shop(Protocol):
    """What answers."""

    def page(self, history: Sequence[str], placements: int, products: int) -> ShownPage:
        """The page of a shopper with this history, oldest first."""
        ...


class ServedShop:
    """A running server, asked with one request at a time."""

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
    """A client of the server at `address`; without one, of a server of this build, which is stopped afterwards.

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
    """The file of answers: a line that says what was asked, then one for each page.

    Args:
        path: of the file; what is there is used if it was asked the same.
        asked: what an answer depends on besides the shopper.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any]):
        self._path = path
        self._pages: dict[tuple[str, str], ShownPage] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines and json.loads(lines[0]) == asked:
            # The last line may have been cut off as the evaluation was ended.
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
        """The pages of every shop for every shopper, the shops in turns; asks only for those that are missing."""
        with self._path.open("a", encoding="utf-8") as file:
            for number, shopper in enumerate(ctx.track(shoppers, "pages", len(shoppers))):
                # None of the shops always comes second, when the machine has its caches warm.
                for name in sorted(shops, reverse=number % 2 == 1):
                    if (name, shopper.user_id) in self._pages:
                        continue
                    page = shops[name].page(shopper.history[-MAX_HISTORY:], placements, products)
                    self._pages[name, shopper.user_id] = page
                    line = {"shop": name, "user": shopper.user_id, **asdict(page)}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    file.flush()
        return {name: [self._pages[name, shopper.user_id] for shopper in shoppers] for name in shops}
