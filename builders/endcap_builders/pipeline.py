"""The build pipeline: named steps with settings, resumable, each writing one folder of a build.

A step is up to date if its *fingerprint* equals the one in `manifest.json`. A fingerprint covers the step's settings,
its own code, and the contents of what it reads: files of earlier steps and, for the first step, the bytes of the
catalogue. Later steps declare the groups of the catalogue's columns that they read like files; the first step writes a
digest of each group. A changed price therefore runs the step `store` and trains nothing. If a step runs again with the
same result, the steps after it do not run again.

A refresh (`refresh.py`) keeps models although their inputs changed. The manifest then has both: the fingerprint with
which the model was made, and, in `kept`, the fingerprint of the inputs beside which it stays.

A step writes to a new folder, which replaces the old one only if the step succeeds. A failed or interrupted build does
not damage what is served.
"""

import hashlib
import importlib.util
import json
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from endcap_builders.build_folder import file_hashes, locked, recover_folder, replace_folder, utc_now
from endcap_builders.catalogue import Catalogue, catalogue_digest
from endcap_builders.catalogue.cut import EventCut
from endcap_builders.code_digest import code_digest
from endcap_builders.manifest import read_manifest, write_manifest
from endcap_builders.step import BuildContext, BuildError, SettingError, Step, files_read, read_settings

_TOOLS = ("torch", "transformers", "openvino", "openvino-genai", "faiss-cpu", "lightgbm", "polars", "numpy")


class Pipeline:
    """Runs steps of one build in order, skipping those that are up to date."""

    def __init__(
        self,
        steps: Sequence[Step],
        build: Path,
        catalogue: Path,
        *,
        overrides: dict[str, dict[str, Any]] | None = None,
        seed: int = 7,
        profile: str = "cpu",
        console: Console | None = None,
    ) -> None:
        self.steps = {step.name: step for step in steps}
        self.build, self.catalogue_folder, self.seed, self.profile = build, catalogue, seed, profile
        self.console = console or Console(stderr=True)
        self._shared: dict[str, Any] = {}
        self._alone = False
        unknown = sorted(set(overrides or {}) - set(self.steps))
        if unknown:
            raise SettingError(f"unknown step {unknown[0]!r} in the settings; the steps are {', '.join(self.steps)}")
        # Settings of earlier calls hold until they are changed.
        told = read_manifest(build).get("overrides", {})
        self.overrides = {name: {**told.get(name, {}), **(overrides or {}).get(name, {})} for name in self.steps}
        self.settings = {
            step.name: read_settings(step.settings, step.name, self.overrides[step.name]) for step in steps
        }

    def run(
        self, only: str | None = None, *, force: bool = False, keep: Collection[str] = frozenset()
    ) -> dict[str, Any]:
        """Run every step, or `only` the one named, and return the manifest.

        Args:
            only: name of a step.
            force: run steps that are up to date, too.
            keep: steps that stay as they are, although their inputs changed; they must have been built.

        Raises:
            BuildError: a needed step has not been built, the settings are wrong, a package is missing, or another
                process builds in this folder.
            CatalogueError: the catalogue is damaged; the build is unchanged.
        """
        if only is not None and only not in self.steps:
            raise BuildError(f"unknown step {only!r}; the steps are {', '.join(self.steps)}")
        self.build.mkdir(parents=True, exist_ok=True)
        with self.alone():
            return self._run(only, force, keep)

    def _run(self, only: str | None, force: bool, keep: Collection[str]) -> dict[str, Any]:
        digest = catalogue_digest(self.catalogue_folder)
        for step in self.steps.values():
            if only in (None, step.name) and step.name not in keep and not self._up_to_date(step, digest):
                _check_packages(step)
        if only is None and not keep:
            self._announce_training(digest)
        for number, step in enumerate(self.steps.values(), 1):
            if only not in (None, step.name):
                continue
            head = f"[{number}/{len(self.steps)}] {step.name}"
            forced = force and step.name not in keep
            if not forced and (step.name in keep or self._up_to_date(step, digest)):
                self.console.print(f"{head}: {self._keep(step, digest)}", highlight=False, markup=False)
                continue
            self._check_needs(step, digest)
            self.console.print(f"{head}: {step.help}", highlight=False, markup=False)
            self._run_step(step, digest, forced=force)
        return read_manifest(self.build)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the build, which has to exist, and recover what a killed process left; may be nested.

        Raises:
            BuildError: another process builds in this folder.
        """
        if self._alone:
            yield
            return
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.build))
            except BlockingIOError:
                raise BuildError(
                    f"{self.build}: expected no other build in this folder, got one that is running; wait for its end"
                ) from None
            for name in self.steps:
                recover_folder(self.build / name)
            self._alone = True
            try:
                yield
            finally:
                self._alone = False

    def is_finished(self, keep: Collection[str]) -> bool:
        """Whether `run` with the same `keep` would run no step."""
        digest = catalogue_digest(self.catalogue_folder)
        return all(
            self._usable(step, digest) if step.name in keep else self._up_to_date(step, digest)
            for step in self.steps.values()
        )

    def read_catalogue(self) -> Catalogue:
        """The catalogue with the events of the build; `run` reads it only once.

        Raises:
            CatalogueError: the catalogue is damaged.
        """
        first = next(iter(self.steps.values()))
        return self._context(first, self.build, self.build).catalogue

    @cached_property
    def _code(self) -> dict[str, str]:
        """Digest of each step's code. Computed once: edits during a build do not affect this process."""
        return {step.name: code_digest(step.run, step.settings, *step.code) for step in self.steps.values()}

    def _announce_training(self, digest: str) -> None:
        """Say before a build that it trains models for which there is a choice."""
        manifest = read_manifest(self.build)
        kept = [name for name, entry in manifest["steps"].items() if "kept" in entry]
        if kept:
            reason = f"a refresh kept {', '.join(name for name in self.steps if name in kept)}"
        elif any(self.steps[name].on_refresh == "learned" for name in manifest["steps"] if name in self.steps) and (
            manifest.get("catalogue", {}).get("digest") != digest
        ):
            reason = "the catalogue has changed"
        else:
            return
        advice = "models are trained again where what they learn from has changed; `endcap build --refresh` keeps them"
        self.console.print(f"{reason}: {advice}", highlight=False, markup=False)

    def _keep(self, step: Step, digest: str) -> str:
        """Record that a step stays as it is, and beside which inputs; says so in words."""
        manifest = read_manifest(self.build)
        entry = manifest["steps"][step.name]
        fingerprint = self._fingerprint(step, digest)
        before = entry.pop("kept", {})
        if entry["fingerprint"] == fingerprint:
            said = "up to date"
        else:
            said = f"kept; built {entry['built']} from the catalogue {entry.get('catalogue', 'unknown')[:8]}"
            if entry.get("code") != self._code[step.name]:
                said += " by another version of its code"
            entry["kept"] = before if before.get("fingerprint") == fingerprint else {
                "at": utc_now(),
                "fingerprint": fingerprint,
                "read": files_read(step, manifest["steps"]),
            }  # fmt: skip
        if entry.get("kept", {}) != before:
            write_manifest(self.build, manifest)
        return said

    def _context(self, step: Step, output: Path, work: Path, *, forced: bool = False) -> BuildContext:
        return BuildContext(
            build=self.build,
            catalogue_folder=self.catalogue_folder,
            output=output,
            work=work,
            seed=self.seed,
            profile=self.profile,
            console=self.console,
            _shared=self._shared,
            cut=next((each for each in self.settings.values() if isinstance(each, EventCut)), EventCut()),
            groups=step.groups,
            forced=forced,
        )

    def _run_step(self, step: Step, digest: str, *, forced: bool) -> None:
        fingerprint = self._fingerprint(step, digest)
        temporary = self.build / f".{step.name}.new"
        work = self.build / ".work" / step.name
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        self._keep_work_of_same_settings(work, fingerprint)
        context = self._context(step, temporary, work, forced=forced)
        start = time.monotonic()
        try:
            figures = step.run(context, self.settings[step.name])
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        replace_folder(temporary, self.build / step.name)
        shutil.rmtree(work, ignore_errors=True)
        seconds = round(time.monotonic() - start, 1)
        self._record(step, fingerprint, digest, {**figures, "seconds": seconds})
        self.console.print(f"  done in {seconds} s", highlight=False, markup=False)

    def _keep_work_of_same_settings(self, work: Path, fingerprint: str) -> None:
        """Discard interrupted work of another fingerprint, because it would mix two runs."""
        stamp = work / ".fingerprint"
        if work.exists() and (not stamp.exists() or stamp.read_text(encoding="utf-8") != fingerprint):
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
        stamp.write_text(fingerprint, encoding="utf-8")

    def _fingerprint(self, step: Step, digest: str) -> str:
        """The step's present fingerprint."""
        parts = {
            "step": step.name,
            "settings": self.settings[step.name].model_dump(mode="json"),
            "code": self._code[step.name],
            "needs": files_read(step, read_manifest(self.build)["steps"]),
            "catalogue": digest if not step.needs else "",
            "reads": step.digest(self.settings[step.name]) if step.digest else "",
            "seed": self.seed,
            "profile": self.profile,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def _up_to_date(self, step: Step, digest: str) -> bool:
        entry = read_manifest(self.build)["steps"].get(step.name, {})
        return (self.build / step.name).is_dir() and entry.get("fingerprint") == self._fingerprint(step, digest)

    def _usable(self, step: Step, digest: str) -> bool:
        """Whether it is up to date, or was kept beside the present inputs."""
        kept = read_manifest(self.build)["steps"].get(step.name, {}).get("kept", {})
        is_kept = kept.get("fingerprint") == self._fingerprint(step, digest) and (self.build / step.name).is_dir()
        return is_kept or self._up_to_date(step, digest)

    def _check_needs(self, step: Step, digest: str) -> None:
        for name in step.needs:
            needed = self.steps[name]
            self._check_needs(needed, digest)
            if not self._usable(needed, digest):
                raise BuildError(
                    f"step {step.name} needs {name}, which is missing or older than its inputs; "
                    f"run `endcap build {name}` first, or `endcap build` for every step"
                )

    def _record(self, step: Step, fingerprint: str, digest: str, figures: dict[str, Any]) -> None:
        manifest = read_manifest(self.build)
        manifest["catalogue"] = {"folder": str(self.catalogue_folder), "digest": digest}
        manifest["profile"], manifest["seed"] = self.profile, self.seed
        manifest["overrides"] = {name: values for name, values in self.overrides.items() if values}
        manifest["tools"] = {name: _version(name) for name in _TOOLS}
        manifest["steps"][step.name] = {
            "fingerprint": fingerprint,
            "built": utc_now(),
            "catalogue": digest,
            "code": self._code[step.name],
            "settings": self.settings[step.name].model_dump(mode="json"),
            "figures": figures,
            "read": files_read(step, manifest["steps"]),
            "files": file_hashes(self.build / step.name),
        }
        write_manifest(self.build, manifest)


def _check_packages(step: Step) -> None:
    """Refuse to begin a build that would end at this step."""
    for module, advice in step.packages.items():
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:  # of the package that it is in
            found = None
        if found is None:
            raise BuildError(f"{step.name}: expected the package {module}, found none; {advice}")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
