"""Selects the requests for a generation of models on trial.

A server announces the trial and its share in STATUS. Clients therefore need no configuration, follow with the next
request, and the server needs no router. The choice depends only on the shopper, so a shopper sees one generation from
every client.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MODES = ("split", "shadow")
_OLDEST = 3


@dataclass(frozen=True)
class Staging:
    """The announcement of a generation on trial.

    Attributes:
        generation: its number, as in `versions`.
        digest: of its models: servers with equal models select the same shoppers, whatever its number on each.
        mode: split: its answers are used; shadow: it gets copies of requests, and its answers are dropped.
        share: of the shoppers, 0 to 1.
        models: ensemble -> name of its version on trial.
    """

    generation: str
    mode: str
    share: float
    models: Mapping[str, str]
    digest: str = ""

    def takes(self, key: bytes) -> bool:
        """Whether it gets the requests of a shopper. Each generation selects other shoppers."""
        digest = hashlib.blake2b(key, digest_size=8, key=(self.digest or self.generation).encode()[:64]).digest()
        return int.from_bytes(digest, "little") < self.share * 2**64


def read_staging(document: Mapping[str, Any]) -> Staging | None:
    """Read the announcement in a STATUS document; None if there is none, or an unknown one."""
    try:
        part = document["staging"]
        models = {str(ensemble): str(name) for ensemble, name in part["models"].items()}
        found = Staging(
            str(part["generation"]), str(part["mode"]), float(part["share"]), models, str(part.get("digest", ""))
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return found if found.mode in MODES and 0 < found.share <= 1 else None


def shopper_key(shopper: str, history: Sequence[str], texts: Sequence[str]) -> bytes:
    """The key of a shopper: the given id; else the oldest products of the history, which do not change as it grows.

    Without both, the texts of the request are the key, so that equal requests get equal answers.
    """
    if shopper:
        return b"shopper\0" + shopper.encode(errors="replace")
    known = list(history[:_OLDEST]) or list(texts)
    return "\0".join(map(str, known)).encode(errors="replace")


class StagingTable:
    """The latest announcement of each server of a client.

    Args:
        servers: Number of servers.
    """

    def __init__(self, servers: int):
        self._of: list[Staging | None] = [None] * servers
        self._failed: list[str] = [""] * servers

    def learn(self, server: int, document: Mapping[str, Any]) -> None:
        """Read an answer's STATUS."""
        found = read_staging(document) if "staging" in document else None
        if found is None:
            self._failed[server] = ""
        elif found.generation == self._failed[server]:
            return
        self._of[server] = found

    def forget(self, server: int) -> None:
        """Stop using a generation on trial that has failed, until the server announces another one."""
        found = self._of[server]
        self._failed[server] = found.generation if found is not None else ""
        self._of[server] = None

    def target(self, server: int, mode: str, model: str, key: bytes) -> str:
        """The model to use in this mode instead of `model`, or in addition; "" if none."""
        found = self._of[server]
        if found is None or found.mode != mode or model not in found.models or not found.takes(key):
            return ""
        return found.models[model]
