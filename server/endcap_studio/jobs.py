"""Work that takes longer than a page: it runs in a thread, says how far it is, and can be cancelled."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from endcap_studio.errors import StudioError

_KEPT = 16


class Cancelled(Exception):  # noqa: N818 - an outcome, not a fault
    """Raised in a job that somebody has cancelled."""


@dataclass
class Job:
    """One piece of work.

    Attributes:
        kind: What it is, such as "preview".
        number: Its unguessable name.
        total: Steps; 0: unknown.
        can_stop: Whether it may be cancelled.
        done: Steps that are done.
        state: running, done, cancelled or failed.
        lines: What it reported.
        result: What it returned.
        error: Why it failed.
    """

    kind: str
    number: str
    total: int = 0
    can_stop: bool = True
    done: int = 0
    state: str = "running"
    lines: list[str] = field(default_factory=list)
    result: Any = None
    error: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)

    def step(self) -> None:
        """Count a step.

        Raises:
            Cancelled: Somebody has cancelled the job.
        """
        self.done += 1
        if self._stop.is_set():
            raise Cancelled

    def report(self, line: str) -> None:
        """Add a line."""
        self.lines.append(line)

    def cancel(self) -> None:
        """Stop at the next step."""
        if self.can_stop:
            self._stop.set()


class Jobs:
    """The latest jobs of a studio.

    Args:
        expected: Errors whose message a person is told as it is.
    """

    def __init__(self, expected: tuple[type[Exception], ...]) -> None:
        self._expected: tuple[type[Exception], ...] = (*expected, StudioError)
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, kind: str, work: Callable[[Job], Any], total: int = 0, *, can_stop: bool = True) -> Job:
        """Start a job.

        Raises:
            StudioError: One that cannot be cancelled runs already.
        """
        job = Job(kind, secrets.token_hex(8), total, can_stop)
        with self._lock:
            if not can_stop and any(each.state == "running" and not each.can_stop for each in self._jobs.values()):
                raise StudioError("another rollout is under way; wait until it has ended")
            self._jobs[job.number] = job
            for number in [number for number, each in self._jobs.items() if each.state != "running"][:-_KEPT]:
                del self._jobs[number]
        threading.Thread(target=self._run, args=(job, work), name=f"studio-{kind}", daemon=True).start()
        return job

    def get(self, number: str) -> Job:
        """A job.

        Raises:
            StudioError: There is none of this name.
        """
        with self._lock:
            job = self._jobs.get(number)
        if job is None:
            raise StudioError("this work is no longer known; start it again")
        return job

    def close(self) -> None:
        """Cancel what runs."""
        with self._lock:
            for job in self._jobs.values():
                job.cancel()

    def _run(self, job: Job, work: Callable[[Job], Any]) -> None:
        try:
            job.result = work(job)
            job.state = "done"
        except Cancelled:
            job.state = "cancelled"
        except self._expected as error:
            job.error, job.state = str(error), "failed"
        except Exception as error:  # a fault must not leave a progress bar that never ends
            job.error, job.state = f"{type(error).__name__}: {error}", "failed"
