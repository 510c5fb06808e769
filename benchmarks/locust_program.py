"""The load generator: locust as a library, in a process of its own.

Each line of standard input is a :class:`benchmarks.load.Phase` as JSON; each line of standard output holds the samples
of one phase.

Closed loop: a user sends the next request as soon as it has an answer. Open loop: the arrival times are drawn
beforehand and do not depend on earlier answers. A pool of users sends the requests. Latency counts from the intended
start, so that a slow server cannot reduce its own load (coordinated omission).
"""

import json
import sys
import time
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import gevent
import numpy as np
from gevent.queue import Queue
from locust import User, constant, task
from locust.env import Environment
from locust.exception import StopUser

from benchmarks.client_thread import CallOutcome, ClientThread
from benchmarks.load import arrival_times

_MARGIN_S = 2.0
_WAY_MS = 15
"""Part of the budget that is reserved for the network, as in the client; the server receives the rest."""
_MAX_USERS = 400
_SPAWNED_A_SECOND = 100
UNANSWERED = "Unanswered"


@dataclass(eq=False)
class Arrival:
    """One request and its intended start, in seconds of the monotonic clock."""

    intended: float
    step: int
    request: dict[str, Any]


class Arrivals:
    """Schedules requests; `open` holds the requests that are due and have no answer yet."""

    def __init__(self, phase: dict[str, Any]):
        self.start = time.monotonic()
        self.open: set[Arrival] = set()
        self._requests = cycle(phase["requests"])
        self._closed = phase["clients"] > 0
        self._until = self.start + sum(seconds for _, seconds in phase["steps"])
        self._queue: Queue[Arrival | None] = Queue()
        if not self._closed:
            gevent.spawn(self._arrive, phase["steps"], np.random.default_rng(phase["seed"]))

    def next(self) -> Arrival:
        """The next request to make; blocks until an arrival is due.

        Raises:
            StopUser: The phase is over.
        """
        if self._closed:
            now = time.monotonic()
            if now >= self._until:
                raise StopUser
            arrival = Arrival(now, 0, next(self._requests))
            self.open.add(arrival)
            return arrival
        waiting = self._queue.get()
        if waiting is None:
            self._queue.put(None)  # for the next user, who stops too
            raise StopUser
        return waiting

    def _arrive(self, steps: list[list[float]], generator: np.random.Generator) -> None:
        for intended, step in arrival_times(steps, generator):
            gevent.sleep(max(0.0, self.start + intended - time.monotonic()))
            arrival = Arrival(self.start + intended, step, next(self._requests))
            self.open.add(arrival)
            self._queue.put(arrival)
        self._queue.put(None)


class LocustShopper(User):
    """A user: takes the next request, sends it, and reports the result to locust."""

    wait_time = constant(0)

    @task
    def ask(self) -> None:
        """Send one request."""
        driver: Driver = self.environment.driver
        arrival = driver.arrivals.next()
        outcome = driver.ask(arrival.request)
        self.environment.events.request.fire(
            request_type="grpc",
            name=arrival.request["kind"],
            response_time=1e3 * (outcome.end_s - arrival.intended),
            response_length=0,
            exception=outcome.error,
            context={"arrival": arrival, "outcome": outcome},
        )


class Driver:
    """Runs one phase: arrivals, requests, samples."""

    def __init__(self, client: ClientThread, phase: dict[str, Any]):
        self._client, self._phase = client, phase
        budget_ms = max(1, phase["budget_ms"] - _WAY_MS)
        self._options = {"timeout_s": phase["timeout_s"], "budget_ms": budget_ms, "products": phase["products"]}
        self.arrivals = Arrivals(phase)
        self.samples: list[dict[str, Any]] = []

    def ask(self, request: dict[str, Any]) -> CallOutcome:
        """Send a request."""
        history, options = request["history"], self._options
        if request["kind"] == "search":
            return self._client.call(lambda client: client.search(request["query"], history=history, **options))
        session, placements = request["session"], self._phase["placements"]
        return self._client.call(lambda client: client.storefront(history, session, placements=placements, **options))

    def record(self, exception: Exception | None, context: dict[str, Any], **_: Any) -> None:
        """Record the requests that locust reports."""
        arrival, outcome = context["arrival"], context["outcome"]
        self.arrivals.open.discard(arrival)
        error = type(exception).__name__ if exception else ""
        status = None if outcome.answer is None else outcome.answer.status
        stages = {} if status is None else status.stages
        said = {
            "message": str(exception or ""),
            "degraded": [] if status is None else list(status.degraded),
            "fallback": [stage for stage, part in stages.items() if part.source == "fallback"],
            "cached": [stage for stage, part in stages.items() if part.source == "cached"],
            "stage_ms": {stage: part.ms for stage, part in stages.items()},
        }
        self._add(arrival, outcome.start_s, outcome.end_s, error, said)

    def close(self) -> None:
        """Count requests without an answer or error; without them the results would be too good."""
        now = time.monotonic()
        for arrival in self.arrivals.open:
            self._add(arrival, arrival.intended, now, UNANSWERED, {})

    def _add(self, arrival: Arrival, start: float, end: float, error: str, said: dict[str, Any]) -> None:
        zero = self.arrivals.start
        moments = {"intended_s": arrival.intended - zero, "start_s": start - zero, "end_s": end - zero}
        self.samples.append({"kind": arrival.request["kind"], "step": arrival.step, **moments, "error": error, **said})


def run_phase(client: ClientThread, phase: dict[str, Any]) -> list[dict[str, Any]]:
    """Run one phase until its last request has ended; return its samples."""
    environment = Environment(user_classes=[LocustShopper], catch_exceptions=False)
    runner = environment.create_local_runner()
    rate = max(rate for rate, _ in phase["steps"])
    users = phase["clients"] or min(_MAX_USERS, int(rate * phase["timeout_s"] * 1.5) + 8)
    driver = Driver(client, phase)
    environment.driver = driver  # type: ignore[attr-defined]
    environment.events.request.add_listener(driver.record)
    runner.start(users, spawn_rate=_SPAWNED_A_SECOND)
    seconds = sum(seconds for _, seconds in phase["steps"])
    deadline = driver.arrivals.start + seconds + phase["timeout_s"] + _MARGIN_S
    gevent.sleep(0.2)
    while runner.user_count and time.monotonic() < deadline:
        gevent.sleep(0.05)
    runner.quit()
    driver.close()
    return driver.samples


def main() -> None:
    """Serve phases until standard input ends."""
    with ClientThread(sys.argv[1]) as client:
        if not client.ready(10):
            sys.exit(f"no server with both ensembles at {sys.argv[1]}")
        print("[]", flush=True)
        for line in sys.stdin:
            print(json.dumps(run_phase(client, json.loads(line))), flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # Ctrl-C reaches the whole process group; the run itself reports the stop
        sys.exit(130)
