"""`endcap apply`, `endcap compare`, `endcap history` and `endcap rollback` on the command line."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from endcap_client import numbers

from endcap_server.apply.limits import RolloutLimits
from endcap_server.apply.operations import apply, promote, roll_back
from endcap_server.apply.rollout import RolloutOptions, RolloutRefused, Share
from endcap_server.apply.side_by_side import side_by_side
from endcap_server.lint import RepositoryError
from endcap_server.serving.control import ControlError
from endcap_server.serving.errors import ApplyError
from endcap_server.serving.journal import Run, Standing
from endcap_server.serving.running import RunningServer, find_server

_EXIT_CODES = "exit codes: 0 done, or nothing to do; 1 refused or failed: what was live is live"

_NICE = 10
"""Lower priority of a rollout's work, so that shoppers' requests get the processors first."""


def add_apply_command(subparsers: Any) -> None:
    """Add `endcap apply` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "apply",
        help="roll edited configurations or a new build into the running server",
        description="Check edited configurations or a new build, load what changes beside what is live, compare pages, "
        "switch, watch, and go back by itself when something is wrong; no request fails on the way "
        "(docs/operations.md).",
        epilog=f"limits: {', '.join(f'{name} {default}' for name, default, _ in RolloutLimits.table())}; {_EXIT_CODES}",
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="DIR",
        help="a build, or a model repository to serve with the live artefacts (default: where the live one came from)",
    )
    trial = parser.add_mutually_exclusive_group()
    trial.add_argument(
        "--split",
        type=numbers.share,
        metavar="SHARE",
        help="show it to a share of the shoppers (5%%) beside what is live",
    )
    trial.add_argument(
        "--shadow",
        type=numbers.share,
        metavar="SHARE",
        help="ask it as well for a share of the shoppers, and drop its answers",
    )
    trial.add_argument("--promote", action="store_true", help="make live what runs beside it by --split or --shadow")
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    _add_load_options(parser)
    parser.add_argument("--skip-hashes", action="store_true", help="do not read the artefacts whole to check them")
    _add_server_options(parser)
    parser.set_defaults(run=_reporting(_apply))


def add_compare_command(subparsers: Any) -> None:
    """Add `endcap compare` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "compare",
        help="the live generation and the one beside it, side by side",
        description="Show what both generations have answered since the trial began, and ask both the same requests.",
    )
    parser.add_argument(
        "--sample",
        type=numbers.whole(1, 10_000),
        default=32,
        metavar="N",
        help="requests to ask (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    _add_server_options(parser)
    parser.set_defaults(run=_reporting(_compare))


def add_history_command(subparsers: Any) -> None:
    """Add `endcap history` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "history",
        help="what was rolled out, and what became of it",
        description="List the generations of a running server: when, from where, what changed, and how it ended.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    _add_server_options(parser)
    parser.set_defaults(run=_reporting(_history))


def add_rollback_command(subparsers: Any) -> None:
    """Add `endcap rollback` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "rollback",
        help="go back to an earlier generation",
        description="Take back a rollout that was interrupted; else load the generation that was live before, or the "
        "one of --to, beside what is live, and switch to it. No request fails on the way.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument(
        "--to", type=numbers.generation, default=0, metavar="N", help="generation (default: the one before)"
    )
    _add_load_options(parser)
    _add_server_options(parser)
    parser.set_defaults(run=_reporting(_rollback))


def _add_load_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_limit,
        metavar="NAME=VALUE",
        help="a limit, before that of apply.toml",
    )
    parser.add_argument("--force-memory", action="store_true", help="load it even if memory seems to be too short")


def _limit(text: str) -> str:
    """Check a limit: its name and the range of its value."""
    try:
        RolloutLimits.read((), [text])
    except ApplyError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--build", type=Path, metavar="DIR", help="the build of the server (default: the one that runs)"
    )
    parser.add_argument(
        "--grpc-port", type=numbers.whole(1, 65_535), metavar="N", help="the server's gRPC port, if several run"
    )


def _apply(arguments: argparse.Namespace) -> None:
    options = RolloutOptions(
        settings=tuple(arguments.set),
        force_memory=arguments.force_memory,
        skip_hashes=arguments.skip_hashes,
        dry_run=arguments.dry_run,
        trial=_trial(arguments),
    )

    server = _server(arguments)
    if arguments.promote:
        promote(server, _say, options)
    else:
        apply(server, arguments.source, _say, options)


def _trial(arguments: argparse.Namespace) -> Share | None:
    for mode in ("split", "shadow"):
        if (share := getattr(arguments, mode)) is not None:
            return Share(mode, share)
    return None


def _compare(arguments: argparse.Namespace) -> None:
    found = side_by_side(find_server(arguments.build, arguments.grpc_port), arguments.sample)
    _show(arguments, found.document(), found.lines())


def _rollback(arguments: argparse.Namespace) -> None:
    options = RolloutOptions(
        settings=tuple(arguments.set), force_memory=arguments.force_memory, skip_hashes=True, lenient=True
    )

    roll_back(_server(arguments), arguments.to, _say, options)


def _history(arguments: argparse.Namespace) -> None:
    standing = find_server(arguments.build, arguments.grpc_port).state_folder.journal.standing()
    runs = [asdict(run) for run in standing.runs.values()]
    document = {"live": standing.live, "staged": standing.staged, "open": standing.open, "generations": runs}
    _show(arguments, document, [_line(run, standing) for run in standing.runs.values()])


def _show(arguments: argparse.Namespace, document: dict[str, Any], lines: Iterable[str]) -> None:
    print(json.dumps(document, indent=1, ensure_ascii=False) if arguments.json else "\n".join(lines))


def _line(run: Run, standing: Standing) -> str:
    outcome = "live now" if run.generation == standing.live else run.outcome or "not ended"
    if run.generation != standing.live and outcome == "live":
        outcome = "was live"
    what = f"rollback to {run.to}" if run.to else f"{run.kind} {run.source}"
    changed = f"; loaded {', '.join(run.changed)}" if run.changed else ""
    reason = f"; {run.reason}" if run.reason else ""
    return f"{run.generation:>4}  {run.began}  {outcome:<12}  {what}{changed}{reason}"


def _server(arguments: argparse.Namespace) -> RunningServer:
    """The server to change, by a process that gives way to it."""
    os.nice(_NICE)
    return find_server(arguments.build, arguments.grpc_port)


def _reporting(command: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], int]:
    """`command`, with its errors told in one sentence."""

    def run(arguments: argparse.Namespace) -> int:
        try:
            command(arguments)
        except (ApplyError, RolloutRefused, ControlError, RepositoryError) as error:
            print(f"endcap {arguments.command}: {error}", file=sys.stderr)
            return 1
        return 0

    return run


def _say(line: str) -> None:
    print(line, flush=True)
