"""Composition of a generation: the models that its ensembles reach, their digests, and which models are shared."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from endcap_server.generations.snapshot import REPOSITORY
from endcap_server.lint.checks_artefacts import needed_files, read_build_manifest
from endcap_server.lint.repository import CONFIG, Config, View, read_repository
from endcap_server.models import ENSEMBLES, base_name, declared_model
from endcap_server.serving.errors import ApplyError
from endcap_server.serving.generation import Generation, staged_name

REPORTS_GENERATION = "fusion"
"""The stage that writes STATUS. It is never shared, because it reports its generation."""


def view_of(snapshot: Path, profile: str) -> View:
    """The models of a snapshot as a server of a profile loads them."""
    return View(read_repository(snapshot / REPOSITORY), profile)


def _digest(config: Config, snapshot: Path, manifest: dict[str, Any]) -> str:
    """Digest of a model's configuration, its files and the artefacts that it opens."""
    proto = type(config.proto)()
    proto.CopyFrom(config.proto)
    proto.ClearField("name")
    parts = [proto.SerializeToString(deterministic=True).hex()]
    for path in sorted(config.folder.rglob("*")):
        relative = path.relative_to(config.folder)
        if path.is_file() and relative.parts[0] not in (CONFIG, "configs"):
            parts.append(f"{relative} {hashlib.sha256(path.read_bytes()).hexdigest()}")
    if not config.is_ensemble:
        parts += _artefact_lines(config, snapshot, manifest)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _artefact_lines(config: Config, snapshot: Path, manifest: dict[str, Any]) -> list[str]:
    steps = manifest.get("steps", {})
    if declared_model(config.model) is None:  # its code can open any file
        opened: Iterable[str] = steps
    else:
        opened = {name.partition("/")[0] for name in needed_files(config, manifest)}
    lines = []
    for step in sorted(opened):
        if files := steps.get(step, {}).get("files"):
            lines += [f"{step}/{name} {digest}" for name, digest in sorted(files.items())]
        else:  # not from this build
            found = sorted((snapshot / step).rglob("*"))
            lines += [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in found if path.is_file()]
    return lines


def compose(number: int, source: str, view: View, snapshot: Path, live: Generation | None) -> Generation:
    """Decide which models a generation shares with the live one, and the names of the others.

    A model is shared if it and all models that it runs or calls are unchanged. The first generation of a server shares
    nothing and uses the plain names.

    Raises:
        ApplyError: a public ensemble is missing.
    """
    public = tuple(name for name in ENSEMBLES if name in view.configs)
    manifest, _ = read_build_manifest(snapshot)
    digests = {name: _digest(view.configs[name], snapshot, manifest) for name in view.reached(public)}
    names: dict[str, str] = {}
    owners: dict[str, int] = {}
    if live is not None and (missing := set(live.public) - set(public)):
        raise ApplyError(f"{source}: the ensemble {', '.join(sorted(missing))} is missing; callers would lose it")
    for model, digest in digests.items():
        shared = (
            live is not None
            and live.digests.get(model) == digest
            and model in live.models
            and base_name(model) != REPORTS_GENERATION
            and not any(owners.get(each) == number for each in view.configs[model].needs)
        )
        if shared and live is not None:
            names[model], owners[model] = live.models[model], live.owners[model]
        else:
            names[model] = model if live is None or model in public else staged_name(model, number)
            owners[model] = number
    return Generation(number, source, view.profile, names, owners, digests, public)
