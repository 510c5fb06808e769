"""Where the facts of a deployment lie, and which catalogues it serves."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from endcap_server.serving.deployment import DeploymentError, find_deployment
from endcap_server.serving.generation import StateFolder
from endcap_server.shop.columns import StoreError
from endcap_server.shop.facts import FOLDER
from endcap_server.shop.facts_journal import FactsError
from endcap_server.shop.store import ItemStore


@dataclass(frozen=True)
class Place:
    """A deployment: the build that is served, and the folder of its facts."""

    build: Path
    folder: Path

    @classmethod
    def find(cls, build: Path | None, folder: Path | None) -> "Place":
        """Find it.

        Args:
            build: The build that is served; None: that of the server that runs here.
            folder: Of the facts; None: that of the server that runs on the build, or `facts` in the build.

        Raises:
            FactsError: No server runs, or several do.
        """
        try:
            return cls(*find_deployment(build, folder, "facts", FOLDER))
        except DeploymentError as error:
            raise FactsError(str(error)) from None

    def served(self) -> list[Path]:
        """The build, and the snapshots of the generations that are live."""
        states = map(StateFolder, sorted((self.build / "serving").glob("*")))
        live = (state.snapshot(state.journal.standing().live) for state in states)
        return [self.build, *(snapshot for snapshot in live if (snapshot / "store").exists())]

    def stores(self) -> Iterator[ItemStore]:
        """The item stores of all that is served.

        Raises:
            FactsError: The build has none.
        """
        try:
            yield from map(ItemStore.open, self.served())
        except StoreError as error:
            raise FactsError(str(error)) from None
