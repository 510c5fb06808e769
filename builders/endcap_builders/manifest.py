"""The manifest of a build: what each step was made from, with which settings, and what it wrote."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from endcap_builders.catalogue.cut import EventCut

MANIFEST = "manifest.json"
CATALOGUE = "catalogue"
"""The first step; its files are the digests of the catalogue's groups."""


def read_manifest(build: Path) -> dict[str, Any]:
    """The build's manifest, or an empty one."""
    path = build / MANIFEST
    if not path.exists():
        return {"format": 1, "steps": {}}
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


def write_manifest(build: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the build's manifest, so that a reader has the old one or the new one."""
    temporary = build / f".{MANIFEST}.new"
    temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, build / MANIFEST)


def cut_of(build: Path) -> EventCut:
    """The cut of a build's events, from its manifest."""
    entry = read_manifest(build)["steps"].get(CATALOGUE, {})
    return EventCut.model_validate(entry.get("settings", {}))
