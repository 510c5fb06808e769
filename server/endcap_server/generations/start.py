"""Prepares the start of a server: with the generation that was live when it stopped, or with the build itself."""

import shutil
from pathlib import Path

from endcap_server.generations.composition import compose, view_of
from endcap_server.generations.render import render_ensemble, render_models
from endcap_server.generations.snapshot import REPOSITORY, take_snapshot
from endcap_server.lint.checks_models import signatures
from endcap_server.lint.repository import CONFIG, View
from endcap_server.serving.errors import ApplyError
from endcap_server.serving.generation import Generation, StateFolder


def state_folder(build: Path, port: int) -> StateFolder:
    """Folder of the state of a build's server on a gRPC port."""
    return StateFolder(build.resolve() / "serving" / str(port))


def prepare(
    state: StateFolder, build: Path, profile: str, *, again: bool = False, as_built: bool = False
) -> Generation:
    """Write the model repository for a server's start.

    Args:
        state: State of this server.
        build: The build to serve.
        profile: Profile of the configurations.
        again: The same server starts again, so the live generation stays live.
        as_built: Serve the build itself, not an applied generation.

    Raises:
        ApplyError: the files of the live generation are gone, the build cannot be copied, or its models' tensors are
            not those of this version of endcap.
    """
    standing = state.journal.standing()
    live = state.read(standing.live) if standing.live and not as_built and (again or state.has(standing.live)) else None
    if live is not None and live.profile != profile:
        live = None
    if live is None or not (again or live.is_applied):
        live = _as_built(state, build, profile, standing.newest + 1, live)
    view = view_of(state.snapshot(live.number), profile)
    _check_tensors(view, build)
    for ensemble in live.public:
        render_ensemble(state, view, live, ensemble, ensemble)
    state.prune(live)
    if not live.is_applied:
        _add_the_rest(state, view, live)
    state.journal.write("served", live.number, source=live.source)
    return live


def _check_tensors(view: View, build: Path) -> None:
    """Refuse a repository of another version of endcap: Triton would load it, but every request would fail."""
    if finding := next(signatures(view), None):
        raise ApplyError(
            f"{finding.what} ({finding.code.name}): the model repository was written by another version of endcap, or "
            f"edited (`endcap lint` shows all that is wrong); `endcap build --out {build} repository` writes it anew"
        )


def _as_built(state: StateFolder, build: Path, profile: str, number: int, before: Generation | None) -> Generation:
    """The generation of the build itself; the former one if nothing has changed."""
    folder = state.snapshot(number)
    take_snapshot(build / REPOSITORY, build, folder)
    view = view_of(folder, profile)
    generation = compose(number, str(build.resolve()), view, folder, None)
    if before is not None and before.digests == generation.digests:
        shutil.rmtree(folder)
        generation, view = before, view_of(state.snapshot(before.number), profile)
    else:
        state.write(generation)
    render_models(state, view, generation)
    return generation


def _add_the_rest(state: StateFolder, view: View, generation: Generation) -> None:
    """Write models that the ensembles do not reach, so that users can load them, and unreadable ones."""
    for folder in sorted((state.snapshot(generation.number) / REPOSITORY).iterdir()):
        name = folder.name
        if name in generation.models:
            continue
        if name in view.configs:
            render_ensemble(state, view, generation, name, name)
        elif (folder / CONFIG).exists():
            shutil.copytree(folder, state.models / name, dirs_exist_ok=True)
