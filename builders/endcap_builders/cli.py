"""`endcap build`, `endcap import` and `endcap demo` on the command line."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from endcap_client import numbers


def add_build_command(subparsers: Any) -> None:
    """Add `endcap build` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "build",
        help="build every model from a catalogue, or one step of it",
        description="Build every model from a catalogue into a Triton model repository. What is up to date is not "
        "built again; an interrupted build goes on where it stopped. --refresh keeps the models. --list shows the "
        "steps and their settings.",
    )
    parser.add_argument(
        "step",
        nargs="?",
        help="one step alone (default: every step)",
    )
    parser.add_argument(
        "--catalogue", type=Path, metavar="DIR", help="folder with products.parquet (default: as before)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the build, e.g. build/mine")
    parser.add_argument(
        "--profile", choices=("cpu", "gpu"), help="engines to build (default: cpu; with --refresh, those of the build)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STEP.SETTING=VALUE",
        help="change a step's setting, e.g. cross_encoder.layers=4; may be repeated; later builds of --out keep to it",
    )
    parser.add_argument(
        "--events-until",
        metavar="TIME",
        help="use only events before this date or time, e.g. 2017-10-16, so that `endcap evaluate storefront` can "
        "measure pages by later ones; short for --set catalogue.events_until=TIME",
    )
    parser.add_argument(
        "--hold-out-orders",
        type=numbers.count,
        metavar="N",
        help="leave out each shopper's last N orders instead, for data without real times; short for "
        "--set catalogue.hold_out_orders=N",
    )
    parser.add_argument("--checkpoint", metavar="DIR", help="with a step: the local checkpoint it starts from")
    parser.add_argument(
        "--seed", type=numbers.seed, help="of everything random (default: 7; with --refresh, that of the build)"
    )
    parser.add_argument(
        "--refresh",
        action="store_true",
        help="take a changed catalogue into a finished build and keep its models: write tables and indexes anew, "
        "encode only texts that changed",
    )
    parser.add_argument(
        "--retrain",
        nargs="+",
        metavar="STEP",
        default=[],
        help="as --refresh, but learn these steps anew, e.g. ranker",
    )
    parser.add_argument("--force", action="store_true", help="build even what is up to date")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="fail if a model is not better than the simplest thing that could do its job",
    )
    parser.add_argument("--list", action="store_true", help="show the steps and their settings, and stop")
    parser.set_defaults(run=reporting(_build))


def add_import_command(subparsers: Any) -> None:
    """Add `endcap import` to the command line."""
    from endcap_builders.importers import IMPORTERS

    parser: argparse.ArgumentParser = subparsers.add_parser(
        "import",
        help="turn a published data set into a catalogue",
        description="Turn a data set into a catalogue folder.",
    )
    parser.add_argument("layout", choices=sorted(IMPORTERS), help="the data set's layout")
    parser.add_argument("source", type=Path, help="folder with the data set's files")
    parser.add_argument("catalogue", type=Path, help="catalogue folder to write")
    parser.add_argument("--split", help="which queries and judgements to take, of layouts that have splits (train)")
    parser.add_argument("--locale", help="which locale to take, of layouts that have several (us)")
    parser.add_argument("--until", metavar="TIME", help="leave out tags made later, of layouts that have tags (all)")
    parser.set_defaults(run=reporting(_import))


def add_demo_command(subparsers: Any) -> None:
    """Add `endcap demo` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        help="build the demo shop, serve it, and print pages",
        description="Generate the demo catalogue, build every model, start the server, send requests, print the pages.",
    )
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="the build (default: %(default)s)")
    parser.add_argument("--catalogue", type=Path, help="where the demo catalogue goes (default: beside the build)")
    parser.set_defaults(run=reporting(_demo))


def reporting(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """`command`, with the errors that users can cause reported in one sentence."""

    def run(arguments: argparse.Namespace) -> int:
        from endcap_server.launch import LaunchError

        from endcap_builders.catalogue import CatalogueError
        from endcap_builders.step import BuildError

        try:
            return command(arguments)
        except (BuildError, CatalogueError, LaunchError) as error:
            print(f"endcap {arguments.command}: {error}", file=sys.stderr)
            return error.exit_code if isinstance(error, BuildError) else 1
        except KeyboardInterrupt:
            print(f"endcap {arguments.command}: interrupted; the same command goes on from here", file=sys.stderr)
            return 130

    return run


def _build(arguments: argparse.Namespace) -> int:
    from endcap_builders.gates import failures, gate_figures, gates_table
    from endcap_builders.manifest import read_manifest
    from endcap_builders.pipeline import Pipeline
    from endcap_builders.refresh import kept_models, refresh
    from endcap_builders.step import BuildError, SettingError
    from endcap_builders.steps import all_steps

    if arguments.list:
        return _list_steps()
    if arguments.out is None:
        raise BuildError("--out is missing: name the build, e.g. --out build/mine")
    refreshes = arguments.refresh or bool(arguments.retrain)
    if refreshes and arguments.step is not None:
        raise SettingError(
            f"--refresh is for the whole build: expected no step, got {arguments.step}; to learn a step anew, say "
            f"--retrain {arguments.step}"
        )
    before = read_manifest(arguments.out)
    catalogue = arguments.catalogue or _catalogue_of(before)
    if catalogue is None:
        raise BuildError("--catalogue is missing: name the folder with products.parquet")
    overrides = settings_given(arguments.set)
    for name in ("events_until", "hold_out_orders"):
        if getattr(arguments, name) is not None:
            overrides.setdefault("catalogue", {})[name] = getattr(arguments, name)
    if arguments.checkpoint is not None:
        if arguments.step is None:
            raise BuildError("--checkpoint goes with a step; for a whole build say --set STEP.checkpoint=DIR")
        overrides.setdefault(arguments.step, {})["checkpoint"] = arguments.checkpoint
    pipeline = Pipeline(
        all_steps(),
        arguments.out,
        catalogue,
        overrides=overrides,
        seed=_given(arguments.seed, before.get("seed") if refreshes else None, 7),
        profile=_given(arguments.profile, before.get("profile") if refreshes else None, "cpu"),
    )
    if refreshes:
        manifest = refresh(pipeline, arguments.retrain, force=arguments.force)
    else:
        manifest = pipeline.run(arguments.step, force=arguments.force)
    models = gate_figures(manifest)
    if models and arguments.step in (None, "gates"):
        pipeline.console.print(gates_table(models, kept_models(manifest)))
        if arguments.strict and (found := failures(models)):
            raise BuildError(f"--strict: not better than the simplest thing that could do the job: {'; '.join(found)}")
    print(f"{arguments.out} is built; serve it with `endcap serve --build {arguments.out}`")
    return 0


def _given(*values: Any) -> Any:
    """The first value that is not None."""
    return next(value for value in values if value is not None)


def _import(arguments: argparse.Namespace) -> int:
    from endcap_builders.importers import run_importer

    options = {"split": arguments.split, "locale": arguments.locale, "until": arguments.until}
    run_importer(arguments.layout, arguments.source, arguments.catalogue, **options)
    print(
        f"{arguments.catalogue} is ready; "
        f"build it with `endcap build --catalogue {arguments.catalogue} --out build/NAME`"
    )
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from endcap_builders.demo import run_demo

    return run_demo(arguments.out, arguments.catalogue or arguments.out.parent / "catalogues" / "demo")


def settings_given(texts: list[str]) -> dict[str, dict[str, Any]]:
    """`["store.max_product_tokens=64"]` as `{"store": {"max_product_tokens": "64"}}`; pydantic reads the values."""
    from endcap_builders.step import SettingError

    overrides: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        step, dot, setting = name.partition(".")
        if not (equals and dot and step and setting):
            raise SettingError(f"--set: expected STEP.SETTING=VALUE, got {text!r}")
        overrides.setdefault(step, {})[setting] = value
    return overrides


def _catalogue_of(manifest: dict[str, Any]) -> Path | None:
    folder = manifest.get("catalogue", {}).get("folder")
    return Path(folder) if folder else None


def _list_steps() -> int:
    from endcap_builders.steps import all_steps

    for step in all_steps():
        print(f"{step.name}: {step.help}" + (f" (needs {', '.join(step.needs)})" if step.needs else ""))
        for name, field in step.settings.model_fields.items():
            print(f"    {step.name}.{name} = {field.default}  {field.description or ''}")
    return 0
