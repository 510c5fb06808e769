"""Follows a Redis stream of facts: each entry is a record, acknowledged when it is in the journal."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, ConnectionError, ResponseError, TimeoutError
from redis.retry import Retry

from endcap_server.facts.records import KnownNames, Problem, check_records
from endcap_server.shop.facts_journal import FactsError
from endcap_server.shop.facts_state import FactsWriter

BATCH = 4000
"""Most entries that are written to disk at once."""
DEAD_LETTERS = ":dead"
"""Ending of the name of the stream with the entries that cannot be taken."""
_MOST_DEAD = 100_000
_CONSUMER = "endcap"
_BLOCK_MS = 200
_SEEN_S = 1.0
_LONGEST_PAUSE_S = 2.0
_SCHEMES = ("redis", "rediss")

Entry = tuple[bytes, Mapping[bytes, bytes] | None]


@dataclass(frozen=True)
class StreamAddress:
    """Address of a stream: redis://[USER:PASSWORD@]HOST[:PORT]/[DATABASE/]STREAM; rediss for TLS.

    Attributes:
        server: URL of the server and database, for redis-py.
        stream: Name of the stream.
        shown: The address without the password.
        password: If it is not in the URL.
    """

    server: str
    stream: str
    shown: str
    password: str | None = None

    @property
    def digest(self) -> str:
        """A short digest of the address, for names of files."""
        return hashlib.blake2b(self.shown.encode(), digest_size=8).hexdigest()

    @classmethod
    def read(cls, address: str, password: str | None = None) -> Self:
        """Read an address.

        Raises:
            FactsError: It is none.
        """
        parts = urlsplit(address)
        *database, stream = parts.path.strip("/").split("/")
        if parts.scheme not in _SCHEMES or not parts.hostname or not stream or len(database) > 1:
            raise FactsError(f"{address}: expected redis://HOST[:PORT]/STREAM, or redis://HOST/DATABASE/STREAM")
        if database and not database[0].isdigit():
            raise FactsError(f"{address}: expected a number as database, got {database[0]!r}")
        server = f"{parts.scheme}://{parts.netloc}/{database[0] if database else 0}"
        host = parts.netloc.rpartition("@")[2]
        return cls(server, unquote(stream), f"{parts.scheme}://{host}{parts.path}", password)


class StreamFollower:
    """Takes the entries of a stream into the journal, in their order, and acknowledges them.

    Args:
        address: Of the stream.
        group: The consumer group; its position is where the follower goes on. Each folder of facts needs its own.
        writer: Of the journal.
        known: What the catalogue has.
        report: Called with one line when something changes: Redis is away, is back, an entry cannot be taken.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        address: StreamAddress,
        group: str,
        writer: FactsWriter,
        known: Callable[[], KnownNames],
        report: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._address, self._group, self._writer = address, group, writer
        self._known, self._report, self._clock = known, report, clock
        # Untyped: its hints leave open what each protocol answers.
        self._redis: Any = redis.Redis.from_url(
            address.server,
            protocol=2,
            socket_timeout=5.0,
            socket_connect_timeout=5.0,
            retry=Retry(NoBackoff(), 0),
            **({"password": address.password} if address.password else {}),
        )
        self._problem = ""
        self._seen_s = 0.0
        self.taken = self.refused = 0
        """Entries that were taken into the journal, and those that became dead letters."""

    def run(self, stopped: Event) -> None:
        """Follow the stream until ``stopped`` is set.

        Raises:
            FactsError: The address is not that of a stream, or Redis refuses the password.
        """
        pause_s, position = 0.05, b""
        while not stopped.is_set():
            try:
                if not position:
                    self._begin()
                    # First, what was delivered but not acknowledged before the follower stopped.
                    position = b"0"
                position = self._step(position)
                self._recovered()
                pause_s = 0.05
                continue
            except (AuthenticationError, AuthorizationError) as error:
                raise FactsError(f"{self._address.shown}: expected access, got {error}; correct the password") from None
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise FactsError(f"{self._address.shown}: expected a stream, got {error}") from None
                self._failed(f"{self._address.shown}: the stream was removed; waiting for it from its beginning")
                position = b""
            except (ConnectionError, TimeoutError, OSError) as error:
                self._failed(f"{self._address.shown} does not answer ({error}); trying again until it does")
                position = b""
            except FactsError as error:
                # Nothing was acknowledged, so the same entries come again.
                self._failed(str(error))
                position = b"0"
            stopped.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self._redis.close()

    def _begin(self) -> None:
        try:
            self._redis.xgroup_create(self._address.stream, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _step(self, position: bytes) -> bytes:
        """Take the next entries; the position of those after them."""
        asked = self._clock()
        answer = self._redis.xreadgroup(
            self._group, _CONSUMER, {self._address.stream: position if position == b"0" else ">"}, BATCH, _BLOCK_MS
        )
        entries: Sequence[Entry] = answer[0][1] if answer else ()
        # Whoever has read less than was asked for has read everything.
        seen = asked if position != b"0" and len(entries) < BATCH and asked - self._seen_s >= _SEEN_S else None
        if entries:
            self._take(entries, seen)
        elif position == b"0":
            return b">"
        elif seen is not None:
            self._writer.write(seen=seen)
        self._seen_s = seen or self._seen_s
        return position

    def _take(self, entries: Sequence[Entry], seen: float | None) -> None:
        # An entry that was removed from the stream meanwhile has no fields.
        given = [(name, fields) for name, fields in entries if fields is not None]
        found = check_records(_records(given, self._clock()), self._known(), self._clock, self._writer.columns())
        self._writer.write(found.changes, found.rules, seen=seen)
        with self._redis.pipeline(transaction=True) as commands:
            for problem in found.problems:
                name, fields = given[problem.row]
                reason = f"{problem.what}: expected {problem.expected}, got {problem.got}"
                letter = {**fields, b"error": reason.encode(), b"entry": name}
                commands.xadd(self._address.stream + DEAD_LETTERS, letter, maxlen=_MOST_DEAD)
            commands.xack(self._address.stream, self._group, *(name for name, _ in entries))
            commands.execute()
        self.taken += len(given) - len(found.problems)
        self.refused += len(found.problems)
        if found.problems:
            first = given[found.problems[0].row][0].decode()
            self._report(
                f"{self._address.shown}: {len(found.problems)} of {len(given)} entries went to "
                f"{self._address.stream + DEAD_LETTERS}; {first}, {_reason(found.problems[0])}"
            )

    def _failed(self, line: str) -> None:
        """Report a problem once, until there is another or none."""
        if not self._problem:
            self._report(line)
        self._problem = line

    def _recovered(self) -> None:
        if self._problem:
            self._report(f"{self._address.shown}: goes on; {self._behind()} entries behind")
            self._problem = ""

    def _behind(self) -> str:
        """How many entries of the stream the group has not read."""
        for group in self._redis.xinfo_groups(self._address.stream):
            if group["name"] == self._group.encode() and group.get("lag") is not None:
                return str(group["lag"])
        return "some"


def _reason(problem: Problem) -> str:
    return str(problem).partition(", ")[2]


def _records(entries: Sequence[Entry], now: float) -> Iterator[tuple[int, Mapping[str, Any] | Problem]]:
    """The entries as records: position, and fields; an entry without a time has that of its id, at most ``now``."""
    for position, (name, fields) in enumerate(entries):
        assert fields is not None
        try:
            record: dict[str, Any] = {key.decode(): value.decode() for key, value in fields.items() if value}
        except UnicodeDecodeError as error:
            yield position, Problem(position, "entry", "UTF-8 texts", str(error))
            continue
        record.setdefault("time", min(now, int(name.partition(b"-")[0]) / 1e3))
        yield position, record
