"""Stores of prepared pages: LMDB in a folder, or Redis."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    import lmdb

FOLDER = "prepared"
FOLDER_VARIABLE = "ENDCAP_PREPARED_DIR"
SCHEMES = ("redis", "rediss")
REDIS_KEYS = "endcap:prepared:"
"""Start of all keys in Redis; the shopper's hash follows."""
_KEYS_OF = "keys-of"
"""Entry that says with which secret the shoppers' keys were hashed."""
_MAP_BYTES = 1 << 36
"""Largest LMDB store; it takes address space, not memory or disk."""
_READERS = 512
_AT_ONCE = 1000


class StoreError(Exception):
    """A store of prepared pages cannot be used; the message says why."""


class PageStore(Protocol):
    """Pages by the hashes of shoppers' keys."""

    waits: bool
    """Whether reading waits for another machine."""

    def get(self, shopper: str) -> bytes | None:
        """The page of a shopper.

        Raises:
            StoreError: The store cannot be read.
        """
        ...

    def get_all(self, shoppers: Sequence[str]) -> Iterator[bytes | None]:
        """The pages of shoppers, in their order; raises StoreError."""
        ...

    def put(self, pages: Mapping[str, bytes]) -> None:
        """Write pages durably, all or none; raises StoreError."""
        ...

    def delete(self, shoppers: Sequence[str]) -> int:
        """Remove the pages of shoppers, all or none; returns how many there were; raises StoreError."""
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...


def prepared_address(build: Path, configured: str = "") -> str:
    """Where the pages of a build are: as configured, ``$ENDCAP_PREPARED_DIR``, or the folder ``prepared``."""
    return configured or os.environ.get(FOLDER_VARIABLE) or str(build / FOLDER)


def exists(address: str) -> bool:
    """Whether there may be pages: Redis is taken to have some."""
    return is_redis(address) or (Path(address) / "data.mdb").exists()


def is_redis(address: str) -> bool:
    """Whether an address is that of a Redis server, not of a folder."""
    return urlsplit(address).scheme in SCHEMES


def shown(address: str) -> str:
    """An address without its password."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if is_redis(address) else address


def open_store(address: str, keys_of: str, *, write: bool = False, timeout_s: float = 5.0) -> PageStore:
    """Open a store.

    Args:
        address: A folder, or redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE].
        keys_of: What identifies the secret of the shoppers' hashes (``ShopperKeys.identity``).
        write: Open it for writing; make it if it is missing.
        timeout_s: Longest wait for an answer of Redis.

    Raises:
        StoreError: The store is missing, broken, unreachable, or has shoppers of another secret.
    """
    store: LmdbStore | RedisStore = (
        RedisStore(address, timeout_s) if is_redis(address) else LmdbStore(Path(address), write=write)
    )
    found = store.get(_KEYS_OF)
    if found is None and write:
        store.put({_KEYS_OF: keys_of.encode()})
    elif found is None or found != keys_of.encode():
        store.close()
        what = "no pages" if found is None else "pages of shoppers whose keys were hashed with another secret"
        raise StoreError(
            f"{shown(address)}: expected prepared pages of this deployment, got {what}; name another store, or the "
            "secret of the build that is served"
        )
    return store


class LmdbStore:
    """Pages in an LMDB environment. Readers and a writer in other processes do not wait for each other.

    Args:
        folder: Of the environment; it should be on a local disk, because the file is memory-mapped.
        write: Open it for writing.
    """

    waits = False

    def __init__(self, folder: Path, *, write: bool) -> None:
        self._folder, self._file = folder, folder / "data.mdb"
        self._environment = _environment(folder, write)
        self._inode, self._size = self._state()
        info, page = self._environment.info(), self._environment.stat()["psize"]
        # Reading beyond the end of a mapped file would end the process.
        if self._size < (info["last_pgno"] + 1) * page:
            self.close()
            raise StoreError(f"{folder}: expected a whole LMDB file, got a part of it; delete it and prepare again")

    def get(self, shopper: str) -> bytes | None:
        """The page of a shopper."""
        return next(self.get_all((shopper,)))

    def get_all(self, shoppers: Sequence[str]) -> Iterator[bytes | None]:
        """The pages of shoppers, in their order."""
        import lmdb

        inode, size = self._state()
        if inode != self._inode or size < self._size:
            raise StoreError(f"{self._folder}: the store was replaced")
        try:
            with self._environment.begin() as transaction:
                found = [transaction.get(shopper.encode()) for shopper in shoppers]
        except lmdb.Error as error:
            raise StoreError(f"{self._folder}: {error}; delete it and prepare again") from None
        return iter(found)

    def put(self, pages: Mapping[str, bytes]) -> None:
        """Write pages durably, all or none."""
        import lmdb

        try:
            with self._environment.begin(write=True) as transaction:
                for shopper, page in pages.items():
                    transaction.put(shopper.encode(), page)
        except lmdb.Error as error:
            raise StoreError(f"{self._folder}: cannot be written: {error}") from None

    def delete(self, shoppers: Sequence[str]) -> int:
        """Remove the pages of shoppers, all or none; returns how many there were."""
        import lmdb

        try:
            with self._environment.begin(write=True) as transaction:
                return sum(transaction.delete(shopper.encode()) for shopper in set(shoppers))
        except lmdb.Error as error:
            raise StoreError(f"{self._folder}: cannot be written: {error}") from None

    def close(self) -> None:
        """Close the environment when no other reader of this process uses it."""
        del self._environment

    def _state(self) -> tuple[tuple[int, int], int]:
        try:
            found = self._file.stat()
        except OSError as error:
            raise StoreError(f"{self._file}: {error.strerror}") from None
        return (found.st_dev, found.st_ino), found.st_size


_environments: WeakValueDictionary[tuple[Path, int], "lmdb.Environment"] = WeakValueDictionary()
"""Environments that are open in this process, by folder: LMDB forbids to open one twice."""


def _environment(folder: Path, write: bool) -> "lmdb.Environment":
    try:
        import lmdb
    except ImportError:
        raise StoreError(f"{folder}: expected the package lmdb, got none; pip install lmdb") from None
    try:
        if write:
            folder.mkdir(parents=True, exist_ok=True)
        elif (known := _environments.get(_place(folder))) is not None:
            return known
        opened = lmdb.open(str(folder), map_size=_MAP_BYTES, max_readers=_READERS, readonly=not write, create=write)
        if write:
            # Of readers that were killed; they would keep old pages in the file.
            opened.reader_check()
    except (lmdb.Error, OSError) as error:
        raise StoreError(f"{folder}: expected an LMDB folder that can be opened, got {error}") from None
    _environments[_place(folder)] = opened
    return opened


def _place(folder: Path) -> tuple[Path, int]:
    return folder.resolve(), (folder / "data.mdb").stat().st_ino


class RedisStore:
    """Pages in Redis, under keys that begin with `REDIS_KEYS`.

    Args:
        address: redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]; rediss for TLS.
        timeout_s: Longest wait for an answer.
    """

    waits = True

    def __init__(self, address: str, timeout_s: float) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            raise StoreError(f"{shown(address)}: expected the package redis, got none; pip install redis") from None
        self._shown, self._failure = shown(address), redis.exceptions.RedisError
        try:
            # Untyped: its hints leave open what each protocol answers.
            self._redis: Any = redis.Redis.from_url(
                address,
                protocol=2,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),
            )
        except (ValueError, TypeError) as error:
            raise StoreError(f"{self._shown}: expected redis://HOST[:PORT][/DATABASE], got {error}") from None

    def get(self, shopper: str) -> bytes | None:
        """The page of a shopper."""
        return next(self.get_all((shopper,)))

    def get_all(self, shoppers: Sequence[str]) -> Iterator[bytes | None]:
        """The pages of shoppers, in their order."""
        found: list[bytes | None] = []
        for start in range(0, len(shoppers), _AT_ONCE):
            names = [REDIS_KEYS + shopper for shopper in shoppers[start : start + _AT_ONCE]]
            try:
                found += self._redis.mget(names)
            except (self._failure, OSError) as error:
                raise StoreError(f"{self._shown}: {error}") from None
        return iter(found)

    def put(self, pages: Mapping[str, bytes]) -> None:
        """Write pages, all or none; Redis saves them as it is configured to."""
        try:
            self._redis.mset({REDIS_KEYS + shopper: page for shopper, page in pages.items()})
        except (self._failure, OSError) as error:
            raise StoreError(f"{self._shown}: cannot be written: {error}") from None

    def delete(self, shoppers: Sequence[str]) -> int:
        """Remove the pages of shoppers, all or none; returns how many there were."""
        try:
            return int(self._redis.delete(*(REDIS_KEYS + shopper for shopper in shoppers))) if shoppers else 0
        except (self._failure, OSError) as error:
            raise StoreError(f"{self._shown}: cannot be written: {error}") from None

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()
