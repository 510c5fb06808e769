"""Which requests go to a generation of models that is tried beside the live one.

A server says in STATUS that it has one, and with which share: clients need no configuration, follow within an answer,
and none of the server's time goes into routing. The choice depends on the shopper alone, so a shopper sees one
generation, from every client.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MODES = ("split", "shadow")
_OLDEST = 3


@dataclass(frozen=True)
class Staging:
    """What a server says about its generation on trial.

    Attributes:
        generation: its number, as in `versions`.
        mode: split: its answers are shown; shadow: it is asked as well, and its answers are dropped.
        share: of the shoppers, 0 to 1.
        models: ensemble -> name of its version on trial.
    """

    generation: str
    mode: str
    share: float
    models: Mapping[str, str]

    def takes(self, key: bytes) -> bool:
        """Whether it gets the requests of a shopper; which ones differs from one generation to the next."""
        digest = hashlib.blake2b(key, digest_size=8, key=self.generation.encode()[:64]).digest()
        return int.from_bytes(digest, "little") < self.share * 2**64


def read_staging(document: Mapping[str, Any]) -> Staging | None:
    """What a STATUS document says of it; None for nothing, or for what this client does not understand."""
    try:
        part = document["staging"]
        models = {str(ensemble): str(name) for ensemble, name in part["models"].items()}
        found = Staging(str(part["generation"]), str(part["mode"]), float(part["share"]), models)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return found if found.mode in MODES and 0 < found.share <= 1 else None


def shopper_key(shopper: str, history: Sequence[str], texts: Sequence[str]) -> bytes:
    """What stands for a shopper: the name given; else the oldest products of the history, which stay as it grows.

    Somebody without either is known by what is asked: equal questions get equal answers.
    """
    if shopper:
        return b"shopper\0" + shopper.encode(errors="replace")
    known = list(history[:_OLDEST]) or list(texts)
    return "\0".join(map(str, known)).encode(errors="replace")


class StagingTable:
    """What each server of a client has said last.

    Args:
        servers: How many there are.
    """

    def __init__(self, servers: int):
        self._of: list[Staging | None] = [None] * servers
        self._failed: list[str] = [""] * servers

    def learn(self, server: int, document: Mapping[str, Any]) -> None:
        """Take note of an answer's STATUS."""
        found = read_staging(document) if "staging" in document else None
        if found is None:
            self._failed[server] = ""
        elif found.generation == self._failed[server]:
            return
        self._of[server] = found

    def forget(self, server: int) -> None:
        """A generation on trial has failed: it is asked no more, unless the server comes with another."""
        found = self._of[server]
        self._failed[server] = found.generation if found is not None else ""
        self._of[server] = None

    def target(self, server: int, mode: str, model: str, key: bytes) -> str:
        """The model to ask in this mode instead of `model`, or besides it; empty if none."""
        found = self._of[server]
        if found is None or found.mode != mode or model not in found.models or not found.takes(key):
            return ""
        return found.models[model]
