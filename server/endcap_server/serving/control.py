"""Model control and statistics of a server over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

_TIMEOUT_S = 600.0
_READY_TIMEOUT_S = 5.0


class ControlError(Exception):
    """The server refused, or cannot be reached; the message is the reason."""


@dataclass(frozen=True)
class Answered:
    """Counts of a model's answers since it was loaded."""

    good: int = 0
    bad: int = 0
    good_ns: int = 0

    def since(self, before: "Answered") -> "Answered":
        """Counts since `before`; all counts if the model was loaded again meanwhile."""
        if self.good < before.good or self.bad < before.bad:
            return self
        return Answered(self.good - before.good, self.bad - before.bad, self.good_ns - before.good_ns)

    @property
    def total(self) -> int:
        """All requests."""
        return self.good + self.bad

    @property
    def bad_share(self) -> float:
        """Share of the requests that failed for any reason."""
        return self.bad / self.total if self.total else 0.0

    @property
    def mean_ms(self) -> float:
        """Mean time of a successful answer."""
        return self.good_ns / self.good / 1e6 if self.good else 0.0


class Control:
    """Model control of one server. Thread-safe: each call opens its own connection.

    Args:
        address: HOST:PORT of its HTTP service.
        headers: Headers of every request.
        timeout_s: Timeout of a request, for example of loading a model.
    """

    def __init__(self, address: str, headers: dict[str, str] | None = None, timeout_s: float = _TIMEOUT_S) -> None:
        self._address, self._timeout_s = address, timeout_s
        self._headers = dict(headers or {})

    def load(self, model: str) -> None:
        """Load a model, or replace a loaded one of that name; raises ControlError with the reason."""
        with self._client() as client:
            client.load_model(model, headers=self._headers)

    def unload(self, *models: str) -> None:
        """Start unloading models (`loaded` shows when that is done); models that are not loaded are skipped."""
        for model in self.loaded(*models):
            self._unload(model)

    def loaded(self, *models: str) -> list[str]:
        """The given models that are not unloaded completely."""
        states = self.states()
        return [model for model in models if states.get(model, "UNAVAILABLE") != "UNAVAILABLE"]

    def restart(self, model: str) -> None:
        """Unload and load a model whose process has died; raises ControlError with the reason."""
        self._unload(model)
        self.load(model)

    def states(self) -> dict[str, str]:
        """Model -> READY, LOADING, UNLOADING or UNAVAILABLE, for all that were ever loaded."""
        with self._client() as client:
            index = client.get_model_repository_index(headers=self._headers)
        return {each["name"]: each["state"] for each in index if each.get("state")}

    def is_ready(self, model: str = "") -> bool:
        """Whether a model, or the server, is ready."""
        try:
            with self._client(_READY_TIMEOUT_S) as client:
                ready = client.is_model_ready(model, headers=self._headers) if model else client.is_server_ready()
                return bool(ready)
        except ControlError:
            return False

    def answered(self, model: str) -> Answered:
        """Counts of a model's answers since it was loaded; zeros if it is not loaded."""
        try:
            with self._client() as client:
                statistics = client.get_inference_statistics(model, headers=self._headers)
        except ControlError:
            return Answered()
        totals = [0, 0, 0]
        for version in statistics.get("model_stats", []):
            inference: dict[str, Any] = version["inference_stats"]
            good, bad = inference.get("success", {}), inference.get("fail", {})
            for place, value in enumerate((good.get("count", 0), bad.get("count", 0), good.get("ns", 0))):
                totals[place] += int(value)
        return Answered(*totals)

    def _unload(self, model: str) -> None:
        with self._client() as client:
            client.unload_model(model, headers=self._headers)

    @contextmanager
    def _client(self, timeout_s: float | None = None) -> Iterator[Any]:
        """A client for one call; its errors become ControlErrors."""
        client = triton.InferenceServerClient(self._address, network_timeout=timeout_s or self._timeout_s)
        try:
            yield client
        except InferenceServerException as error:
            raise ControlError(" ".join(error.message().split())) from None
        except (OSError, HTTPException) as error:  # no connection, no answer in time, or the server ended meanwhile
            raise ControlError(f"{self._address}: the server does not answer ({error})") from None
        finally:
            client.close()
