"""Reloads a model whose process died; Triton does not, and answers the model's requests with errors.

A model's process ("stub") is a child of the server, and its command line names the model's folder. If the process is
gone while the server reports the model as ready, it has died. Such a model must be unloaded before it can be loaded
again. Models that a rollout loads or unloads are not reloaded. (Often the whole server ends with a model's process;
`supervisor` handles that.)
"""

import threading
import time
from collections.abc import Callable

from endcap_server.serving.control import Control, ControlError
from endcap_server.serving.processes import model_processes

POLL_S = 0.5
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
CONTROL_TIMEOUT_S = 120.0


class Watchdog:
    """A thread that reloads models of one server whose processes have died.

    Args:
        group: The server's process id, which is also its group's.
        control: Its model-control API.
        answering: Names of the models that requests reach; others are not reloaded.
        report: Called with one line for each event.
    """

    def __init__(
        self,
        group: int,
        control: Control,
        answering: Callable[[], set[str]],
        report: Callable[[str], None],
    ) -> None:
        self._group, self._control, self._answering = group, control, answering
        self._report = report
        self._known: dict[str, int] = {}
        self._pauses: dict[str, tuple[float, float]] = {}  # model -> (not before, next pause), seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start watching the models that run now."""
        self._known = {model: process for process, model in model_processes(self._group).items()}
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, without waiting for a running reload."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(POLL_S):
            alive = {model: process for process, model in model_processes(self._group).items()}
            self._known |= alive
            missing = {model: process for model, process in self._known.items() if model not in alive}
            for model in missing:
                if not self._stopped.is_set() and self._pauses.get(model, (0.0, 0.0))[0] <= time.monotonic():
                    self._revive(model)

    def _revive(self, model: str) -> None:
        try:
            if self._control.states().get(model) != "READY":
                if model not in self._pauses:
                    self._known.pop(model)  # unloaded by an operator, who can load it again
                    return
            elif model in model_processes(self._group).values() or model not in self._answering():
                return
        except (ControlError, ValueError):
            return  # the server is stopping
        pause = max(FIRST_PAUSE_S, self._pauses.get(model, (0.0, FIRST_PAUSE_S))[1])
        started = time.monotonic()
        try:
            self._control.restart(model)
            self._report(f"the process of {model} died; loaded it again in {time.monotonic() - started:.1f} s")
        except ControlError as error:
            if not self._stopped.is_set():
                self._report(f"the process of {model} died, and it does not load ({error}); next try in {pause:.0f} s")
        self._pauses[model] = (time.monotonic() + pause, min(2 * pause, LONGEST_PAUSE_S))
