"""The names that a deployment knows, kept up to date while builds go live."""

import time
from collections.abc import Callable
from pathlib import Path

from endcap_server.facts.place import Place
from endcap_server.facts.records import KnownNames

_LOOK_AGAIN_S = 1.0


class Catalogues:
    """Opens the item stores of a deployment anew when other ones are served.

    Args:
        place: The deployment.
        clock: Seconds since any start.
    """

    def __init__(self, place: Place, clock: Callable[[], float] = time.monotonic) -> None:
        self._place, self._clock = place, clock
        self._folders: list[Path] = []
        self._looked_s = float("-inf")
        self._known = KnownNames(())

    def known(self) -> KnownNames:
        """What the catalogues that are served have.

        Raises:
            FactsError: The build has no item store.
        """
        now = self._clock()
        if now - self._looked_s >= _LOOK_AGAIN_S:
            self._looked_s = now
            folders = self._place.served()
            if folders != self._folders:
                self._known, self._folders = KnownNames(self._place.stores()), folders
        return self._known
