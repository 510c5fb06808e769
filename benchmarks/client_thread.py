"""Our asyncio client on a thread of its own, for greenlets that make requests and wait.

locust runs its users as greenlets. gRPC's own support for gevent uses a polling thread for each waiting call, which
delays answers: refusals that the server sent within milliseconds arrived half a second to a second later. Here gRPC
runs as in production, on an event loop in a thread that gevent does not patch. A greenlet sleeps until its answer has
arrived.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import gevent
from endcap_client import AsyncClient, EndcapError
from gevent.event import AsyncResult


@dataclass(frozen=True)
class CallOutcome:
    """An answer or an error, and when the call began and ended on ``time.monotonic``."""

    answer: Any
    error: EndcapError | None
    start_s: float
    end_s: float


class ClientThread:
    """A context manager that starts the thread and ends it.

    Args:
        address: HOST:PORT of the server's gRPC port.
    """

    def __init__(self, address: str):
        self._client = AsyncClient(address, timeout_s=60)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="client", daemon=True)
        self._done: deque[tuple[AsyncResult[CallOutcome], Future[CallOutcome]]] = deque()
        # Its `send` is the only method of gevent that another thread may call.
        self._woken = gevent.get_hub().loop.async_()

    def __enter__(self) -> Self:
        self._woken.start(self._pass_on)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._woken.stop()
        self._woken.close()

    def ready(self, timeout_s: float) -> bool:
        """Whether both ensembles answer."""
        return asyncio.run_coroutine_threadsafe(self._client.ready(timeout_s), self._loop).result()

    def call(self, make: Callable[[AsyncClient], Awaitable[Any]]) -> CallOutcome:
        """Make one call; other greenlets run while it waits."""
        answered: AsyncResult[CallOutcome] = AsyncResult()
        future = asyncio.run_coroutine_threadsafe(self._timed(make), self._loop)

        def tell(done: Future[CallOutcome]) -> None:
            self._done.append((answered, done))
            self._woken.send()

        future.add_done_callback(tell)
        try:
            return answered.get()
        finally:
            future.cancel()  # if the greenlet was killed; no effect on a call that has ended

    def _pass_on(self) -> None:
        """Runs in gevent's hub: wakes the greenlets whose calls have ended."""
        while self._done:
            answered, future = self._done.popleft()
            if not future.cancelled():
                answered.set(future.result())

    async def _timed(self, make: Callable[[AsyncClient], Awaitable[Any]]) -> CallOutcome:
        start, answer, error = time.monotonic(), None, None
        try:
            answer = await make(self._client)
        except EndcapError as raised:
            error = raised
        return CallOutcome(answer, error, start, time.monotonic())
