"""The server that a studio is about: found anew when it was started again, asked for pages of both generations."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from endcap_builders.manifest import read_manifest
from endcap_client import Client, Options, Page, SearchResult
from endcap_server.serving.errors import ApplyError
from endcap_server.serving.running import RunningServer, find_server
from endcap_server.shop.columns import StoreError

from endcap_studio.errors import StudioError
from endcap_studio.shop import Shop

TIMEOUT_S = 10.0
BUDGET_MS = 3000
"""A person waits for the page that a shopper with a patient shop would get; the time that it took is shown."""


@dataclass(frozen=True)
class Ask:
    """A request for a page.

    Attributes:
        history: Product ids, oldest first.
        session: Search texts, oldest first.
        placements: How many.
        products: How many in each.
        rules: RULES, or none.
    """

    history: tuple[str, ...] = ()
    session: tuple[str, ...] = ()
    placements: int = 4
    products: int = 6
    rules: Mapping[str, Any] = field(default_factory=dict)


class Deployment:
    """A served build.

    Args:
        build: The build.
        port: gRPC port of its server, if several run; None: any.
        catalogue: Folder of its catalogue; None: where the build read it.
        events: Parquet file or folder of events for outcomes; None: those of the catalogue.
    """

    def __init__(
        self, build: Path, port: int | None = None, catalogue: Path | None = None, events: Path | None = None
    ) -> None:
        self.build, self._port = build, port
        self.catalogue, self._events = catalogue or _catalogue_of(build), events
        self._lock = threading.Lock()
        self._server: RunningServer | None = None
        self._clients: dict[tuple[str, str], Client] = {}
        self._shop: Shop | None = None

    @property
    def events(self) -> Path | None:
        """Events that followed the pages."""
        if self._events is not None or self.catalogue is None:
            return self._events
        places = [self.catalogue / name for name in ("events.parquet", "events")]
        return next((place for place in places if place.exists()), None)

    @property
    def server(self) -> RunningServer:
        """The server.

        Raises:
            StudioError: It does not run.
        """
        with self._lock:
            if self._server is None or not self._server.is_alive:
                try:
                    self._server = find_server(self.build, self._port)
                except ApplyError as error:
                    self._server = None
                    raise StudioError(str(error)) from None
                self._close_clients()
            return self._server

    @property
    def shop(self) -> Shop:
        """What the live generation says of its products.

        Raises:
            StudioError: The server does not run, or the build has no item store.
        """
        server = self.server
        state = server.state_folder
        snapshot = state.snapshot(state.journal.standing().live)
        folder = snapshot if (snapshot / "store").exists() else self.build
        with self._lock:
            if self._shop is None or self._shop.folder != folder or not folder.exists():
                try:
                    self._shop = Shop(folder, Path(server.facts), self.catalogue)
                except StoreError as error:
                    raise StudioError(str(error)) from None
            return self._shop

    @property
    def staged(self) -> int:
        """Number of the generation on trial; 0 without one."""
        return self.server.state_folder.journal.standing().staged

    def page(self, ask: Ask, generation: int = 0, timeout_s: float | None = None) -> Page:
        """Ask for a page.

        Args:
            ask: The request.
            generation: The generation on trial to ask; 0: the live one.
            timeout_s: Deadline; None: `TIMEOUT_S`.

        Raises:
            EndcapError: The server cannot answer.
            StudioError: The server does not run.
        """
        return self._client(generation).storefront(
            ask.history,
            ask.session,
            rules=ask.rules or None,
            placements=ask.placements,
            products=ask.products,
            timeout_s=timeout_s,
            budget_ms=BUDGET_MS,
            explain=True,
        )

    def search(self, query: str, history: Sequence[str] = (), products: int = 12, generation: int = 0) -> SearchResult:
        """Ask for a search; errors as of `page`."""
        return self._client(generation).search(query, history, products=products, budget_ms=BUDGET_MS, explain=True)

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            self._close_clients()

    def _client(self, generation: int) -> Client:
        server = self.server
        storefront, search = "storefront", "search"
        if generation:
            try:
                staged = server.state_folder.read(generation)
            except ApplyError as error:
                raise StudioError(str(error)) from None
            storefront, search = staged.staging(storefront), staged.staging(search)
        key = (server.grpc, storefront)
        with self._lock:
            if key not in self._clients:
                options = Options(timeout_s=TIMEOUT_S, trials=False, storefront_model=storefront, search_model=search)
                self._clients[key] = Client(server.grpc, options=options)
            return self._clients[key]

    def _close_clients(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients = {}


def _catalogue_of(build: Path) -> Path | None:
    folder = read_manifest(build).get("catalogue", {}).get("folder")
    return Path(folder) if folder else None
