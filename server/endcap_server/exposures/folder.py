"""A folder of exposures, which several processes write to: what is of dead ones, too old, too much, or to be erased."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from endcap_server.exposures.ledger import COUNTS, LEDGER, forget, lost, read_ledger
from endcap_server.exposures.segments import JOURNAL, NEW, SEGMENT, convert, whole_lines, write_segment

_ENDED, _CLOSE = "ended.json", "close"


class ExposureFolder:
    """A folder of exposures.

    A process's journal is named TIME-PROCESS-ROWS; ROWS is what the process had written before. It is closed as the
    segment of the same name. Files are made, replaced and deleted under a lock of the folder, which is held for one
    file at a time.

    Args:
        path: Of the folder.
    """

    def __init__(self, path: Path):
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock.

        Raises:
            OSError: There is no such folder.
        """
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def journals(self, process: str = "") -> list[Path]:
        """The journals, or those of one process, oldest first."""
        found = sorted(self.path.glob(f"*{JOURNAL}"))
        return [path for path in found if not process or _owner(path) == process]

    def segments(self) -> list[Path]:
        """The segments, oldest first."""
        return sorted(self.path.glob(f"*{SEGMENT}"))

    def dead_journals(self) -> list[Path]:
        """Journals of processes that have ended."""
        journals = self.journals()  # before the ledgers: a process makes its ledger first
        living = self._living()
        return [path for path in journals if _owner(path) not in living]

    def size(self) -> int:
        """Bytes of all journals and segments."""
        total = 0
        for path in [*self.journals(), *self.segments()]:
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def adopt(self) -> int:
        """Close the segments of processes that have ended, and add up what became of their exposures.

        Returns:
            How many exposures were lost with processes whose end nobody had noticed yet.

        Raises:
            OSError: The folder cannot be read, or is full.
        """
        with self.locked():
            for new in self.path.glob(f"*{NEW}"):  # of a process that was killed while it held the lock
                new.unlink()
            ledgers = self._ledgers()
            found = sum(self._fold(process) for process, (_, lives) in ledgers.items() if not lives)
        for journal in self.dead_journals():
            with suppress(OSError, ValueError), self.locked():
                convert(journal)
        return found

    def prune(self, most_bytes: int, days: float) -> None:
        """Delete files above a size of all, the oldest first, and files of an age; open journals stay.

        Raises:
            OSError: The folder cannot be read.
        """
        oldest, total = time.time() - days * 86400, 0
        with self.locked():
            living = self._living()
            for path in sorted([*self.journals(), *self.segments()], reverse=True):
                with suppress(OSError):
                    found = path.stat()
                    total += found.st_size
                    is_open = path.suffix == JOURNAL and _owner(path) in living
                    if (total > most_bytes or found.st_mtime < oldest) and not is_open:
                        path.unlink()

    def ask_to_close(self) -> int:
        """Ask all processes to close their journals; return the number of the request.

        Raises:
            OSError: The request cannot be written.
        """
        path, number = self.path / _CLOSE, time.time_ns()
        path.touch()
        os.utime(path, ns=(number, number))
        return path.stat().st_mtime_ns

    def asked(self) -> int:
        """Number of the latest request to close journals, 0 without, or if the folder cannot be read."""
        try:
            return (self.path / _CLOSE).stat().st_mtime_ns
        except OSError:
            return 0

    def not_closed(self, number: int) -> list[str]:
        """The processes that have not followed a request yet."""
        return sorted(
            process for process, (counts, lives) in self._ledgers().items() if lives and counts["closed"] < number
        )

    def remove(self, segment: Path, column: str, chosen: Callable[[Any], Any]) -> int:
        """Remove rows from a segment, in one step: readers see all of it before or after.

        Args:
            segment: Of this folder.
            column: Which is looked at.
            chosen: Takes its values (an array of PyArrow) and returns booleans: which rows are removed.

        Returns:
            How many rows were removed.

        Raises:
            OSError: The segment cannot be written; it stays as it was.
        """
        from pyarrow import compute, parquet

        with self.locked():
            try:
                mask = chosen(parquet.read_table(segment, columns=[column])[column])
                count = int(compute.sum(mask).as_py() or 0)
                if not count:
                    return 0
                if count == len(mask):
                    segment.unlink()
                    return count
                found = segment.stat()
                write_segment(parquet.read_table(segment).filter(compute.invert(mask)), segment)
                # Its age decides when it is deleted.
                os.utime(segment, ns=(found.st_atime_ns, found.st_mtime_ns))
            except FileNotFoundError:  # deleted by a process that has too much
                return 0
        return count

    def totals(self) -> dict[str, int]:
        """What became of all exposures so far: the counts of ledgers; `lost` ones died with a process.

        Raises:
            OSError: The folder cannot be read.
        """
        with self.locked():
            ended = self._ended()
            counted = ended.pop("processes")
            for process, (counts, lives) in self._ledgers().items():
                if process not in counted:
                    ended = _added(ended, counts if lives else self._corrected(process, counts), lives)
        return ended

    def _ledgers(self) -> dict[str, tuple[dict[str, int], bool]]:
        """Counts of each process, and whether it lives."""
        found = ((path.stem, read_ledger(path)) for path in self.path.glob(f"*{LEDGER}"))
        return {process: ledger for process, ledger in found if ledger is not None}

    def _living(self) -> set[str]:
        return {process for process, (_, lives) in self._ledgers().items() if lives}

    def _ended(self) -> dict[str, Any]:
        """Sums of processes that have ended, and `processes`: those that still have a ledger."""
        try:
            found: dict[str, Any] = json.loads((self.path / _ENDED).read_bytes())
            return found
        except FileNotFoundError:
            return dict.fromkeys((*COUNTS, "lost"), 0) | {"processes": []}

    def _corrected(self, process: str, counts: Mapping[str, int]) -> dict[str, int]:
        """The counts of a process that has ended: it may have been killed between a write and its count."""
        rows = [_rows_before(path) + whole_lines(path).count(b"\n") for path in self.journals(process)]
        return {**counts, "written": max([counts["written"], *rows])}

    def _fold(self, process: str) -> int:
        """Add the ledger of a process that has ended to the sums, once; return how many exposures it lost."""
        ledger, ended, found = self.path / f"{process}{LEDGER}", self._ended(), 0
        if process not in ended["processes"]:
            read = read_ledger(ledger)
            counts = self._corrected(process, read[0] if read else dict.fromkeys(COUNTS, 0))
            found = lost(counts)
            left = [each for each in ended["processes"] if (self.path / f"{each}{LEDGER}").exists()]
            ended = _added(ended, counts, lives=False) | {"processes": [*left, process]}
            new = self.path / f"{_ENDED}{NEW}"
            new.write_text(json.dumps(ended) + "\n", encoding="utf-8")
            new.replace(self.path / _ENDED)
        forget(ledger)
        return found


def _added(sums: Mapping[str, Any], counts: Mapping[str, int], lives: bool) -> dict[str, Any]:
    added = {name: sums[name] + counts[name] for name in COUNTS}
    return {**sums, **added, "lost": sums["lost"] + (0 if lives else lost(counts))}


def _owner(path: Path) -> str:
    return path.stem.partition("-")[2].rpartition("-")[0]


def _rows_before(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
