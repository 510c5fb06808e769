"""Looks prepared pages up for requests: a store that fails, or does not answer, costs a request almost nothing."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from endcap_server.prepared.page import PreparedPage
from endcap_server.prepared.stores import PageStore, StoreError, exists, open_store, shown

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0

T = TypeVar("T")


class PreparedPages:
    """The pages of a store.

    After a failure, the store is left alone for a second, then for longer. Opening it, and asking a store on another
    machine, happens on a thread of its own, which a request awaits only for `timeout_s`.

    Args:
        address: Of the store; see :func:`stores.open_store`.
        keys_of: What identifies the secret of the shoppers' hashes.
        timeout_s: Longest wait of a request.
        clock: Seconds since any start.
    """

    def __init__(
        self, address: str, keys_of: str, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address, self._keys_of, self._timeout_s, self._clock = address, keys_of, timeout_s, clock
        self._store: PageStore | None = None
        self._again_s, self._pause_s, self._problem = 0.0, _FIRST_PAUSE_S, ""
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._late: set[Any] = set()
        """Jobs that requests no longer await; while there is one, the thread hangs."""
        self._thread: threading.Thread | None = None

    @property
    def exist(self) -> bool:
        """Whether there is a store; it costs a system call at most."""
        return self._store is not None or exists(self._address)

    def open_soon(self) -> None:
        """Open the store, if there is one, before the first request needs it."""
        if self.exist:
            self._put(self._try_to_open)

    async def find(self, shopper: str) -> PreparedPage | None:
        """The page of a shopper, None without one.

        Args:
            shopper: Hash of the key.

        Raises:
            StoreError: The store cannot be read now, or what it holds is no page.
        """
        if self._clock() < self._again_s or self._late:
            raise StoreError(self._problem)
        try:
            store = self._store or await self._opened()
            value = await self._on_thread(lambda: store.get(shopper)) if store.waits else store.get(shopper)
        except StoreError as error:
            self._failed(str(error))
            raise
        self._problem, self._pause_s = "", _FIRST_PAUSE_S
        if value is None:
            return None
        page = PreparedPage.read(value)
        if page is None:
            raise StoreError("a page of another version of endcap")
        return page

    def close(self) -> None:
        """Close the store and end the thread."""
        self._jobs.put(None)
        if self._store is not None:
            self._store.close()
            self._store = None

    async def _opened(self) -> PageStore:
        return await self._on_thread(self._open)

    def _open(self) -> PageStore:
        if self._store is None:
            self._store = open_store(self._address, self._keys_of, timeout_s=self._timeout_s)
            # If it took so long that the request has gone, the next one finds it open.
            self._again_s = 0.0
        return self._store

    def _try_to_open(self) -> None:
        # The first request reports what is wrong.
        with suppress(Exception):
            self._open()

    async def _on_thread(self, job: Callable[[], T]) -> T:
        """The result of a job on the thread; StoreError if it fails or takes longer than a request waits."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        ended = threading.Event()

        def work() -> None:
            try:
                settle = partial(_settle, future, job())
            except Exception as error:
                settle = partial(_settle, future, error=error)
            ended.set()
            self._late.discard(future)
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(settle)

        self._put(work)
        try:
            return await asyncio.wait_for(future, self._timeout_s)
        except TimeoutError:
            self._late.add(future)
            if ended.is_set():
                self._late.discard(future)
            raise StoreError(f"{shown(self._address)}: no answer within {1e3 * self._timeout_s:g} ms") from None

    def _put(self, work: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="prepared pages", daemon=True)
            self._thread.start()
        self._jobs.put(work)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _failed(self, problem: str) -> None:
        """Leave the store alone for a while; one line in the log for each problem."""
        if self._store is not None:
            self._store.close()
            self._store = None
        if self._problem != problem:
            _LOG.warning("prepared pages are not taken: %s", problem)
        self._problem = problem
        self._again_s = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)


def _settle(future: asyncio.Future[T], result: T | None = None, error: Exception | None = None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)  # type: ignore[arg-type]
