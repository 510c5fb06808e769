"""What a step of a build is: its settings, its context, what it reads, and its errors."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from endcap_builders.catalogue import Catalogue, read_catalogue
from endcap_builders.catalogue.cut import EventCut
from endcap_builders.catalogue.groups import GROUPS, restricted
from endcap_builders.manifest import CATALOGUE, cut_of

T = TypeVar("T")
_EVERYTHING = ("*",)


class BuildError(Exception):
    """A build cannot continue; the message says what was expected, what came, and what to do."""

    exit_code = 1


class SettingError(BuildError):
    """A setting of a step that does not exist or is out of range: the command line is wrong, nothing was done."""

    exit_code = 2


class Settings(BaseModel):
    """A step's settings: the description of a field is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Settings)


def read_settings(kind: type[S], section: str, values: Mapping[str, Any]) -> S:
    """Settings of a step, or of another section of ``--set``.

    Raises:
        SettingError: a setting that does not exist, or is out of range.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        known = ", ".join(kind.model_fields) or "none"
        problem = f"setting {section}.{name}: {first['msg']}, got {first['input']!r}"
        raise SettingError(f"{problem}; the settings of {section} are {known}") from None


def check_sections(given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse settings of a section that does not exist.

    Raises:
        SettingError: names the section.
    """
    for section in given:
        if section not in known:
            expected = " or ".join(filter(None, (", ".join(known[:-1]), known[-1])))
            raise SettingError(f"--set: expected a setting of {expected}, got {section!r}")


@dataclass(frozen=True)
class BuildContext:
    """The context of a running step."""

    build: Path
    catalogue_folder: Path
    output: Path
    """A new, empty folder; replaces the step's folder in the build when `run` returns."""
    work: Path
    """Folder that is kept after an interruption (checkpoints, labelled shards), and removed after success."""
    seed: int
    profile: str
    console: Console
    _shared: dict[str, Any] = field(repr=False)
    cut: EventCut = field(default_factory=EventCut)
    groups: frozenset[str] = frozenset(GROUPS)
    """Groups of the catalogue's columns that the step declares."""
    forced: bool = False
    """Whether to compute everything, even what an earlier run has computed from the same."""

    @cached_property
    def catalogue(self) -> Catalogue:
        """The checked catalogue with the events of the build, read once for all steps."""
        if "catalogue" not in self._shared:
            self._shared["catalogue"] = self.cut.before(read_catalogue(self.catalogue_folder))
        return restricted(self._shared["catalogue"], self.groups)

    def input(self, step: str) -> Path:
        """Folder of a finished step."""
        return self.build / step

    def log(self, text: str) -> None:
        """Print a line for the user."""
        self.console.print(f"  {text}", highlight=False, markup=False)

    def track(self, items: Iterable[T], description: str, total: float | None = None) -> Iterator[T]:
        """Iterate with a progress bar."""
        with progress_bar(self.console) as progress:
            yield from progress.track(items, description=description, total=total)


@dataclass(frozen=True)
class Step:
    """One step: `run(context, settings)` writes `context.output` and returns figures for the manifest."""

    name: str
    help: str
    needs: tuple[str, ...]
    settings: type[Settings]
    run: Callable[[BuildContext, Any], dict[str, Any]]
    digest: Callable[[Any], str] | None = None
    """Digest of other inputs of the step, given its settings; a change runs the step again."""
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Patterns of the files that it reads of a needed step, by default all; `!` excludes files. Of `catalogue`, they
    are groups of columns."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Modules that it imports and that the extra `build` does not install -> how to install each."""
    code: tuple[Callable[..., Any], ...] = ()
    """Functions besides `run` that the pipeline calls and that determine what the step writes."""
    on_refresh: Literal["written", "learned", "examples", "fixed"] = "written"
    """What a refresh does if the inputs of the step changed: it runs the step (`written`), keeps it unless it is to be
    learned again (`learned`) or read by a step that is (`examples`), or keeps it always (`fixed`)."""
    shapes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Settings that determine what models read -> these models. A refresh with another value has to train them."""

    def files_read(self, needed: str, files: Mapping[str, str]) -> dict[str, str]:
        """The files of a needed step (path -> digest) that this step reads."""
        patterns = self.reads.get(needed, _EVERYTHING)
        return {name: digest for name, digest in files.items() if _matches(name, patterns)}

    @property
    def groups(self) -> frozenset[str]:
        """Groups of the catalogue's columns that it reads; all for the first step."""
        if not self.needs:
            return frozenset(GROUPS)
        if CATALOGUE not in self.needs:
            return frozenset()
        patterns = self.reads.get(CATALOGUE, _EVERYTHING)
        return frozenset(group for group in GROUPS if _matches(group, patterns))


def build_context(build: Path, catalogue: Path, work: Path, console: Console, *, seed: int = 7) -> BuildContext:
    """A context outside the pipeline, for commands that only read a build; they write to `work`."""
    return BuildContext(
        build=build,
        catalogue_folder=catalogue,
        output=work,
        work=work,
        seed=seed,
        profile="cpu",
        console=console,
        _shared={},
        cut=cut_of(build),
    )


def progress_bar(console: Console) -> Progress:
    """The progress bar that every long step shows."""
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=not console.is_terminal,
    )


def files_read(step: Step, entries: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Files of needed steps that a step reads, with their digests in the manifest's `entries`."""
    return {name: step.files_read(name, entries.get(name, {}).get("files", {})) for name in step.needs}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern without `!` matches, and none with `!`."""
    out = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    return any(fnmatchcase(name, each) for each in patterns) and not any(fnmatchcase(name, each) for each in out)
