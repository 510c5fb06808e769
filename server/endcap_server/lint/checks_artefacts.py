"""Checks of the build: whether the files that models open exist and match the manifest.

`manifest.json` holds, for each build step, `files`: a path in the step's folder -> the first 16 hexadecimal digits of
its SHA-256, and `read`: a needed step -> those of its `files` that this step read, with their hashes at that time. Of a
step that a refresh has kept, `kept.read` has the files beside which it was kept.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from endcap_server.lint.finding import Finding, Where, code
from endcap_server.lint.registry import check
from endcap_server.lint.repository import Config, View

MANIFEST = "manifest.json"
_DIGITS = 16

NO_MANIFEST = code("E601", "a build has no readable manifest", "neither lint nor STATUS can say what is served")
MISSING = code("E602", "a file that a model opens is missing", "the model is refused on loading, or does with less")
CHANGED = code("E603", "a file is not the one that was built", "what is served is not what was built and measured")
OTHER_BUILD = code(
    "E604", "a step was built from other files than those beside it", "row numbers and vectors of two builds are mixed"
)
GONE = code("W605", "a file of the manifest is missing, which no model opens", "the build is incomplete")


@check(NO_MANIFEST, MISSING)
def artefacts(view: View) -> Iterator[Finding]:
    """Every file that a model opens on loading exists."""
    for build, configs in _builds(view).items():
        manifest, problem = read_build_manifest(build)
        if problem:
            advice = f"run `endcap build --out {build.name}` for every step, or take the build's own manifest"
            yield NO_MANIFEST.at(Where(build / MANIFEST), problem, advice)
        if _profile(build, manifest) != view.profile:
            continue
        for config in configs:
            for name in needed_files(config, manifest):
                if not (build / name).is_file():
                    step = name.partition("/")[0]
                    where = _manifest_place(build, step, name) or _reason(config)
                    what = f"{config.model} needs {build.name}/{name}, which does not exist"
                    yield MISSING.at(where, what, f"run `endcap build {step} --out ...`, or restore the file")


@check(CHANGED, OTHER_BUILD, GONE)
def manifests(view: View) -> Iterator[Finding]:
    """The files of served steps match the manifest, and each step was built from the present files of the others."""
    for build, configs in _builds(view).items():
        manifest, problem = read_build_manifest(build)
        if problem or _profile(build, manifest) != view.profile:
            continue
        opened = {name for config in configs for name in needed_files(config, manifest)}
        served = {name.partition("/")[0] for name in opened}
        steps = manifest["steps"]
        for step in sorted(served & steps.keys()):
            for name, digest in sorted(steps[step].get("files", {}).items()):
                path, place = build / step / name, f"{step}/{name}"
                where = _manifest_place(build, step, place) or Where(build / MANIFEST)
                advice = f"run `endcap build {step} --out ...`, or restore the file"
                if not path.is_file():
                    if place not in opened:
                        yield GONE.at(where, f"{build.name}/{place} does not exist", advice)
                elif view.hashes and _digest(path, path.stat().st_mtime_ns) != digest:
                    yield CHANGED.at(where, f"{build.name}/{place} is not the file that was built", advice)
            # A refresh keeps a model beside files that it was not built from.
            for other, read in steps[step].get("kept", steps[step]).get("read", {}).items():
                # Older versions wrote one digest of all files, which says nothing about the files that were read.
                if other not in served or other not in steps or not isinstance(read, dict):
                    continue
                now = steps[other].get("files", {})
                for name in sorted(name for name, digest in read.items() if now.get(name) != digest)[:1]:
                    where = _line_of(build, step, f'"{name}": "{read[name]}"') or Where(build / MANIFEST)
                    what = f"{step} was built from another {other}/{name}"
                    yield OTHER_BUILD.at(where, what, f"run `endcap build {step} --out ...`")


def _builds(view: View) -> dict[Path, list[Config]]:
    """The builds that models name, with these models; none for a repository outside a build."""
    found: dict[Path, list[Config]] = {}
    for config in view.configs.values():
        if config.declared is None:
            continue
        parameter = config.parameter("build")
        build = (config.folder.resolve() / (parameter.value if parameter else "../..")).resolve()
        if (build / MANIFEST).exists() or (build / "store").is_dir() or view.repository.is_built:
            found.setdefault(build, []).append(config)
    return found


def read_build_manifest(build: Path) -> tuple[dict[str, Any], str]:
    """The manifest, or a finding about it."""
    try:
        manifest = json.loads((build / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, f"{build.name} has no {MANIFEST}"
    except ValueError as error:
        return {}, f"{MANIFEST} of {build.name} is no JSON: {error}"
    if not isinstance(manifest, dict) or not isinstance(manifest.get("steps"), dict):
        return {}, f"{MANIFEST} of {build.name} has no steps"
    return manifest, ""


def _profile(build: Path, manifest: dict[str, Any]) -> str:
    """The profile for which a build was made."""
    compiled = "gpu" if (build / "cross_encoder" / "model.plan").exists() else "cpu"
    return str(manifest.get("profile", compiled))


def needed_files(config: Config, manifest: dict[str, Any]) -> tuple[str, ...]:
    """Files that the model opens with its parameters, in the build of the manifest."""
    declared = config.declared
    if declared is None:
        return ()
    # The check of the parameters reports those that cannot be read.
    settings = config.settings or declared.parameters()
    built = {f"{step}/{name}" for step, entry in manifest.get("steps", {}).items() for name in entry.get("files", {})}
    return (*declared.files(settings), *(name for name in declared.optional_files if name in built))


def _reason(config: Config) -> Where:
    """The line because of which a model needs its files."""
    parameter = config.parameter("implementation") or config.parameter("build")
    return parameter.value_where if parameter else config.place("backend")


def _manifest_place(build: Path, step: str, name: str) -> Where | None:
    """The line of a file in the manifest."""
    return _line_of(build, step, f'"{name.partition("/")[2]}": "')


def _line_of(build: Path, step: str, text: str) -> Where | None:
    """The first line with `text` in the part of a step; the manifest is written with one space for each level."""
    path = build / MANIFEST
    inside = False
    if not path.is_file():
        return None
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if line.startswith('  "') and line.rstrip().endswith("{"):
            inside = line.strip().startswith(f'"{step}":')
        elif inside and line.strip().startswith(text):
            return Where(path, number)
    return None


@lru_cache(maxsize=4096)
def _digest(path: Path, modified_ns: int) -> str:
    """Hash of a file, cached by its modification time for a second profile."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]
