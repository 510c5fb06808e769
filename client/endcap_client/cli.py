"""The command line `endcap`.

`endcap request` is the client's own; the other subcommands come with the other packages, through the entry-point group
`endcap.commands`. Each entry is a function `add_NAME_command(subparsers)` that adds its parser and sets the default
`run`, a function from the parsed arguments to an exit code. Only the requested subcommand is imported.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from endcap_client.request_command import EXIT_CODES, add_request_command

COMMANDS = "endcap.commands"
_EXTRAS = {"endcap_builders": "build", "endcap_server": "serving", "endcap_studio": "studio", "benchmarks": "bench"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wanted = next((word for word in words if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="endcap",
        description="Personalised, generated storefronts and product search.",
        epilog=f"`endcap COMMAND --help` explains a command; {EXIT_CODES}",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add_request_command(subparsers)
    if wanted != "request":
        for entry in sorted(entry_points(group=COMMANDS), key=lambda entry: entry.name):
            if wanted not in (None, entry.name):
                subparsers.add_parser(entry.name)  # so that the error about a misspelt command lists all names
                continue
            problem = _add_command(subparsers, entry)
            if problem and wanted == entry.name:
                print(f"endcap {entry.name}: {problem}", file=sys.stderr)
                return 1
            if problem:
                subparsers.add_parser(entry.name, help=f"(not available here: {problem})".replace("%", "%%"))
    parsed = parser.parse_args(words)
    try:
        return int(parsed.run(parsed) or 0)
    except BrokenPipeError:
        # The reader (head, less) has closed the pipe; this prevents another error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _add_command(subparsers: Any, entry: EntryPoint) -> str:
    """Add the command of one package, or return in one sentence why that is not possible."""
    package = entry.module.partition(".")[0]
    try:
        entry.load()(subparsers)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(f"{package}."):
            return f"{package} lacks its module {error.name!r}; install it again"
        extra = _EXTRAS.get(package)
        advice = f"install it with pip install 'endcap[{extra}]'" if extra else f"it is needed by {package}"
        return f"the Python package {error.name!r} is not installed in this environment; {advice}"
    except Exception as error:  # an error of another package must not break the command line
        return f"{package} cannot be loaded ({type(error).__name__}: {error})"
    return ""


if __name__ == "__main__":
    sys.exit(main())
