"""`endcap build --refresh`: takes a changed catalogue into a finished build and keeps its models.

Tables and indexes are written anew; texts that did not change are neither encoded nor tokenised again (`reuse.py`).
Models, and the examples that they learned from, stay, except those that are to be learned again. The manifest says of
each kept step from which catalogue it was made.
"""

from collections.abc import Collection, Iterator
from typing import Any

from endcap_server.shop.columns import EncodedTexts, StoreError, StringColumn, find_encoded

from endcap_builders.catalogue.schema import TABLES, Catalogue
from endcap_builders.manifest import CATALOGUE, read_manifest
from endcap_builders.pipeline import Pipeline
from endcap_builders.step import BuildError, SettingError, Step

_STORE = "store"


def refresh(pipeline: Pipeline, retrain: Collection[str] = (), *, force: bool = False) -> dict[str, Any]:
    """Bring a build up to date with its catalogue, and return the manifest.

    An interrupted refresh goes on where it stopped.

    Args:
        pipeline: of the build.
        retrain: steps that learn anew.
        force: encode and write even what has not changed.

    Raises:
        SettingError: a step cannot be learned anew, or a changed setting takes training that was not asked for.
        BuildError: a model that is to be kept has not been built, the catalogue is not the successor of the build's, or
            another process builds in this folder.
        CatalogueError: the catalogue is damaged.
    """
    keep = _kept_steps(pipeline, retrain)
    if not pipeline.build.is_dir():
        raise BuildError(_not_built(pipeline, list(pipeline.steps)))
    with pipeline.alone():
        return _refresh(pipeline, keep, force)


def _refresh(pipeline: Pipeline, keep: Collection[str], force: bool) -> dict[str, Any]:
    manifest = read_manifest(pipeline.build)
    _check_built(pipeline, manifest, keep)
    _check_settings(pipeline, manifest, keep)
    if not force and pipeline.is_finished(keep):
        built = max(entry["built"] for entry in manifest["steps"].values())
        _say(pipeline, f"nothing has changed since {built}; nothing to do")
        return manifest
    catalogue = pipeline.read_catalogue()
    for line in _changes(pipeline, manifest, catalogue):
        _say(pipeline, line)
    return pipeline.run(keep=keep, force=force)


def kept_models(manifest: dict[str, Any]) -> dict[str, str]:
    """Steps that a refresh has kept, and when each was built."""
    return {name: entry["built"] for name, entry in manifest["steps"].items() if "kept" in entry}


def _kept_steps(pipeline: Pipeline, retrain: Collection[str]) -> frozenset[str]:
    """Steps that stay as they are: models, the encoder, and training examples that nobody reads."""
    steps = pipeline.steps.values()
    learned = [step.name for step in steps if step.on_refresh == "learned"]
    for name in retrain:
        if name not in learned:
            encoder = name in pipeline.steps and pipeline.steps[name].on_refresh == "fixed"
            advice = "everything depends on it: run endcap build without --refresh" if encoder else "leave it out"
            raise SettingError(f"--retrain: expected steps that learn ({', '.join(learned)}), got {name}; {advice}")
    read = {needed for name in retrain for needed in pipeline.steps[name].needs}
    return frozenset(
        step.name
        for step in steps
        if step.on_refresh == "fixed"
        or (step.on_refresh == "learned" and step.name not in retrain)
        or (step.on_refresh == "examples" and step.name not in read)
    )


def _check_built(pipeline: Pipeline, manifest: dict[str, Any], keep: Collection[str]) -> None:
    steps = manifest["steps"]
    expected = [name for name in pipeline.steps if name in keep or name in (CATALOGUE, _STORE)]
    missing = [name for name in expected if name not in steps or not (pipeline.build / name).is_dir()]
    if missing:
        raise BuildError(_not_built(pipeline, missing))
    for name, now in (("profile", pipeline.profile), ("seed", pipeline.seed)):
        if manifest[name] != now:
            raise SettingError(
                f"--{name}: expected {manifest[name]}, with which the kept models were built, got {now}; leave it out, "
                "or run endcap build without --refresh"
            )


def _not_built(pipeline: Pipeline, missing: list[str]) -> str:
    return (
        f"a refresh keeps the models of {pipeline.build}: expected them built, found no {', '.join(missing)}; "
        f"run `endcap build --catalogue {pipeline.catalogue_folder} --out {pipeline.build}` first"
    )


def _check_settings(pipeline: Pipeline, manifest: dict[str, Any], keep: Collection[str]) -> None:
    """Refuse other settings for what is kept, or for what kept models learned from."""
    for step in pipeline.steps.values():
        for name, before, now in _changed_settings(pipeline, manifest, step):
            if step.name in keep:
                affected = [step.name]
            else:
                affected = [model for model in step.shapes.get(name, ()) if model in keep]
            if affected:
                if step.on_refresh == "fixed":
                    what, advice = "on which everything depends", "run endcap build without --refresh"
                elif step.on_refresh == "examples":
                    models = [each.name for each in pipeline.steps.values() if step.name in each.needs]
                    what, advice = "from which models learn", f"add --retrain {' '.join(models)}"
                else:
                    what, advice = f"which {', '.join(affected)} learned with", f"add --retrain {' '.join(affected)}"
                raise SettingError(
                    f"setting {step.name}.{name}: expected {before!r}, {what}, got {now!r}; {advice}, or set "
                    f"{step.name}.{name}={before}"
                )


def _changed_settings(pipeline: Pipeline, manifest: dict[str, Any], step: Step) -> Iterator[tuple[str, object, object]]:
    """Name, former and present value of settings that both know."""
    before = manifest["steps"].get(step.name, {}).get("settings", {})
    for name, value in pipeline.settings[step.name].model_dump(mode="json").items():
        if name in before and before[name] != value:
            yield name, before[name], value


def _changes(pipeline: Pipeline, manifest: dict[str, Any], catalogue: Catalogue) -> Iterator[str]:
    """What the catalogue has that the build has not, in sentences.

    Raises:
        BuildError: a column or table is missing, or none of the build's products is left.
    """
    before = manifest["steps"][CATALOGUE]["figures"].get("columns", {})
    for table in TABLES:
        had, has = before.get(table.name, ()), catalogue.columns.get(table.name, ())
        lost = [name for name in had if name not in has]
        if lost:
            what = f"the column {', '.join(lost)}" if has else "this file"
            raise BuildError(
                f"{catalogue.folder}/{table.file}: expected {what}, with which the models were trained, got none; "
                "write it again, or run endcap build without --refresh"
            )
        if before and (new := [name for name in has if name not in had]):
            yield f"{table.file}: the models were trained without {', '.join(new)}"
    try:
        known = StringColumn.open(pipeline.build / _STORE, "product_ids")
    except StoreError as error:
        raise BuildError(f"the item store of the build cannot be read: {error}") from None
    rows = find_encoded(known, EncodedTexts.of(catalogue.products["product_id"]))
    kept = int((rows >= 0).sum())
    if not kept:
        first, other = catalogue.products["product_id"][0], known[0]
        raise BuildError(
            f"{catalogue.folder}/{TABLES[0].file}: expected products of the build, got none of its {len(known):,} "
            f"({first!r} instead of such as {other!r}); name the right catalogue, or run endcap build without --refresh"
        )
    yield f"{len(rows) - kept:,} products added, {len(known) - kept:,} removed, {kept:,} stay"


def _say(pipeline: Pipeline, text: str) -> None:
    pipeline.console.print(text, highlight=False, markup=False)
