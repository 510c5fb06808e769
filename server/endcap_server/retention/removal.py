"""Removes rows of exposures, while servers go on writing others."""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from endcap_server.exposures.folder import ExposureFolder
from endcap_server.retention.place import RetentionError

CLOSE_S = 30.0
"""Seconds that servers have to close their journals."""
_PAUSE_S = 0.1

Track = Callable[[list[Any]], Iterable[Any]]
"""Goes through a list and shows how far it is."""


def erase(folder: ExposureFolder, hashes: list[str], track: Track = iter) -> tuple[int, int]:
    """Remove all exposures of shoppers that were recorded before this call; return the rows and files.

    Raises:
        RetentionError: A server does not close its journal.
        OSError: A segment cannot be written; those before it are done.
    """
    import pyarrow as pa
    from pyarrow import compute

    wanted = pa.array(hashes, pa.string())
    return _remove(folder, "shopper", lambda values: compute.is_in(values, value_set=wanted), track)


def prune(folder: ExposureFolder, days: float, track: Track = iter) -> tuple[int, int]:
    """Remove all exposures older than a number of days; return the rows and files.

    Raises:
        RetentionError: A server does not close its journal.
        OSError: A segment cannot be written; those before it are done.
    """
    import pyarrow as pa
    from pyarrow import compute

    oldest = pa.scalar(datetime.fromtimestamp(time.time() - days * 86400, UTC), pa.timestamp("us", "UTC"))
    return _remove(folder, "time", lambda values: compute.less(values, oldest), track)


def _remove(folder: ExposureFolder, column: str, chosen: Callable[[Any], Any], track: Track) -> tuple[int, int]:
    _close_journals(folder)
    removed = [folder.remove(segment, column, chosen) for segment in track(folder.segments())]
    return sum(removed), sum(map(bool, removed))


def _close_journals(folder: ExposureFolder) -> None:
    """Have all that was recorded so far in segments."""
    number, until = folder.ask_to_close(), time.monotonic() + CLOSE_S
    while waited := folder.not_closed(number):
        if time.monotonic() > until:
            raise RetentionError(
                f"{folder.path}: process {', '.join(waited)} has not closed its file within {CLOSE_S:g} s; its disk "
                "may be full or slow. Nothing was removed"
            )
        time.sleep(_PAUSE_S)
    folder.adopt()
    if dead := folder.dead_journals():
        raise RetentionError(f"{dead[0]}: cannot be made a segment; is the disk full? Nothing was removed")
