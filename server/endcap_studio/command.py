"""`endcap studio` on the command line."""

import argparse
import re
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from endcap_client import numbers

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
DEFAULT_ADDRESS = "127.0.0.1:8010"


def add_studio_command(subparsers: Any) -> None:
    """Add `endcap studio` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "studio",
        help="a web page to see pages, rules, themes, generations and outcomes of a shop",
        description="Open a local web page for merchandisers: pages as shoppers see them and why, rules before and "
        "after, themes, generations and outcomes. Starts a server on the build if none runs. Other machines are let "
        "in only with the token that is printed (docs/studio.md).",
    )
    parser.add_argument("--build", type=Path, required=True, metavar="DIR", help="a build, e.g. build/demo")
    parser.add_argument(
        "--address",
        type=_address,
        default=DEFAULT_ADDRESS,
        metavar="HOST:PORT",
        help="where to listen; other than loopback, a login is needed (default: %(default)s)",
    )
    parser.add_argument(
        "--catalogue", type=Path, metavar="DIR", help="folder of the catalogue (default: where the build read it)"
    )
    parser.add_argument(
        "--events",
        type=Path,
        metavar="FILE",
        help="Parquet file, or folder of them, of events for outcomes (default: those of the catalogue)",
    )
    parser.add_argument(
        "--grpc-port",
        type=numbers.whole(1, 65_535),
        metavar="N",
        help="the server's gRPC port, if several run, or where to start one",
    )
    parser.set_defaults(run=_studio)


def _address(text: str) -> str:
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s/]+):\d{1,5}", text) or int(text.rpartition(":")[2]) > 65_535:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, got {text!r}")
    return text


def _studio(arguments: argparse.Namespace) -> int:
    try:
        import uvicorn

        from endcap_studio.app import Studio, create_app
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("endcap_"):
            raise
        print(f"endcap studio: it needs {error.name}; install it with pip install 'endcap[studio]'", file=sys.stderr)
        return 1
    from endcap_server.serving.errors import LaunchError

    from endcap_studio.deployment import Deployment
    from endcap_studio.errors import StudioError
    from endcap_studio.security import Guard

    # As Ctrl-C: a server that was started for the studio ends with it.
    signal.signal(signal.SIGTERM, _stop)
    host, _, port = arguments.address.rpartition(":")
    token = "" if host in _LOOPBACK else secrets.token_urlsafe(18)
    try:
        with _served(arguments.build, arguments.grpc_port):
            deployment = Deployment(arguments.build, arguments.grpc_port, arguments.catalogue, arguments.events)
            studio = Studio(deployment, Guard(token))
            deployment.shop  # noqa: B018 - begins to read what takes a moment, and tells what is missing
            config = uvicorn.Config(
                create_app(studio), host=host.strip("[]"), port=int(port), log_level="warning", server_header=False
            )
            server = uvicorn.Server(config)
            print(f"The studio of {arguments.build} is at http://{arguments.address} (Ctrl-C stops)", flush=True)
            if token:
                print(f"Log in with the token {token}", flush=True)
            try:
                server.run()
            finally:
                studio.jobs.close()
                deployment.close()
            return 0 if server.started else 1
    except (LaunchError, StudioError) as error:
        print(f"endcap studio: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("endcap: the studio has stopped", flush=True)
        return 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _served(build: Path, port: int | None) -> Iterator[None]:
    """The server of the build: the one that runs, or one that is started for the studio."""
    from endcap_server.launch import Server, ServerOptions
    from endcap_server.serving.running import running_servers

    running = [each for each in running_servers() if Path(each.build) == build.resolve()]
    if any(port is None or each.grpc.endswith(f":{port}") for each in running):
        yield
        return
    print(f"starting a server on {build}", file=sys.stderr, flush=True)
    options = (
        ServerOptions(build=build)
        if port is None
        else ServerOptions(build, grpc_port=port, http_port=0, metrics_port=0)
    )
    with Server(options, lambda line: print(f"endcap: {line}", file=sys.stderr)):
        yield
