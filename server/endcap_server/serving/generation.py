"""A generation: one complete set of models that makes pages together, and its files."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from endcap_server.models import VERSION_MARK, base_name
from endcap_server.serving.errors import ApplyError
from endcap_server.serving.journal import Journal

_FILE = "generation.json"
KEPT = 5
"""Generations that are kept for rollbacks, besides those that the live one uses."""


@dataclass(frozen=True)
class Generation:
    """A set of models.

    Attributes:
        number: increases; no number is used twice.
        source: the folder that it was made from.
        profile: cpu or gpu: which configurations count.
        models: model of the repository -> its name in the server.
        owners: model -> generation from whose files it was loaded; for a shared model, an earlier generation.
        digests: model -> digest of its configuration, code and artefacts.
        public: the ensembles that callers know.
    """

    number: int
    source: str
    profile: str
    models: dict[str, str]
    owners: dict[str, int]
    digests: dict[str, str]
    public: tuple[str, ...]

    @property
    def own(self) -> list[str]:
        """Names in the server of the models that are not shared with an earlier generation, ensembles aside."""
        return [
            name
            for model, name in self.models.items()
            if self.owners[model] == self.number and model not in self.public
        ]

    @property
    def digest(self) -> str:
        """Of all its models: equal on servers that serve the same ones."""
        return hashlib.sha256(json.dumps(self.digests, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def is_applied(self) -> bool:
        """Whether it was rolled out to a running server; otherwise a server started with it."""
        return any(name != model for model, name in self.models.items())

    @property
    def table(self) -> str:
        """Name of its table of requests in flight and of its recorded requests: the name of its retrieval model."""
        return next((name for model, name in self.models.items() if base_name(model) == "retrieval"), "retrieval")

    def staging(self, ensemble: str) -> str:
        """Name in the server of a public ensemble while the generation is not live."""
        return staged_name(ensemble, self.number)


def staged_name(model: str, number: int) -> str:
    """Name of a model of generation `number` in the server."""
    return f"{model}{VERSION_MARK}g{number}"


class StateFolder:
    """State of a server on disk: its history, and the files of its generations.

    Args:
        folder: `serving/PORT` of a build.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        """The model repository that Triton reads: models under the names that they have in the server."""
        self.journal = Journal(folder / "history.jsonl")

    def snapshot(self, number: int) -> Path:
        """Folder of a generation's files, laid out as a build."""
        return self.folder / "generations" / str(number)

    def has(self, number: int) -> bool:
        """Whether the files of a generation are there."""
        return (self.snapshot(number) / _FILE).exists()

    def read(self, number: int) -> Generation:
        """A generation.

        Raises:
            ApplyError: its files are gone.
        """
        try:
            values: dict[str, Any] = json.loads((self.snapshot(number) / _FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            kept = ", ".join(map(str, self.kept())) or "none"
            raise ApplyError(f"generation {number}: its files are gone; those that are kept: {kept}") from None
        return Generation(**{**values, "public": tuple(values["public"])})

    def answering(self) -> set[str]:
        """Names in the server of the models of the generations that requests reach."""
        found: set[str] = set()
        for number in self.journal.standing().answering:
            with suppress(ApplyError):
                found.update(self.read(number).models.values())
        return found

    def write(self, generation: Generation) -> None:
        """Write the description of a generation beside its files."""
        write_whole(self.snapshot(generation.number) / _FILE, json.dumps(asdict(generation), indent=1) + "\n")

    def kept(self) -> list[int]:
        """Numbers of the generations whose files are there."""
        folders = (self.folder / "generations").glob("*")
        return sorted(int(each.name) for each in folders if each.name.isdigit() and self.has(int(each.name)))

    def prune(self, live: Generation, *others: Generation) -> None:
        """Remove files of generations and models that neither these nor a rollback need."""
        needed = {number for each in (live, *others) for number in (each.number, *each.owners.values())}
        for number in set(self.kept()[:-KEPT]) - needed:
            shutil.rmtree(self.snapshot(number), ignore_errors=True)
        names = {name for each in (live, *others) for name in each.models.values()} | set(live.public)
        names |= {each.staging(name) for each in others for name in each.public}
        for folder in self.models.iterdir() if self.models.exists() else ():
            if folder.name not in names:
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock out other rollouts of this server; the lock ends with its process.

        Raises:
            ApplyError: another rollout is running.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ApplyError(
                    f"another apply or rollback of the server of {self.folder} is under way; wait until it has ended"
                ) from None
            yield
        finally:
            os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
