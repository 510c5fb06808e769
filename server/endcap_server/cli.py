"""`endcap serve`: the launcher on the command line."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any

from endcap_client import numbers

from endcap_server.launch import LaunchError, Server, ServerOptions, ServerTls, Supervisor


def add_serve_command(subparsers: Any) -> None:
    """Add `endcap serve` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "serve",
        help="serve a build with Triton Inference Server",
        description="Start the real Triton Inference Server on a build, wait until every model is ready, "
        "print one line with the ports, and stop cleanly: on SIGINT at once, on SIGTERM once requests in flight had "
        "time to end. A server or engine that ends by "
        "itself is started again.",
    )
    parser.add_argument("--build", type=Path, required=True, metavar="DIR", help="a build, e.g. build/demo")
    parser.add_argument("--address", default=ServerOptions.address, help="address to listen on (default: %(default)s)")
    for name, what in (("grpc", "gRPC"), ("http", "HTTP"), ("metrics", "Prometheus")):
        default = getattr(ServerOptions, f"{name}_port")
        help_ = f"{what} port, 0 picks one (default: %(default)s)"
        parser.add_argument(f"--{name}-port", type=numbers.port, default=default, help=help_)
    parser.add_argument(
        "--health-port",
        type=numbers.port,
        help="port of /ready and /live for load balancers, which are told first that the server stops (default: none)",
    )
    parser.add_argument(
        "--profile", choices=("cpu", "gpu"), default="cpu", help="which configs the models load (default: %(default)s)"
    )
    _add_access_options(parser)
    parser.add_argument(
        "--facts",
        type=Path,
        metavar="DIR",
        help="folder of stock, prices and standing rules, which several servers may share (default: BUILD/facts)",
    )
    parser.add_argument(
        "--exposures",
        type=Path,
        metavar="DIR",
        help="folder of the records of what was shown, which several servers may share (default: BUILD/exposures)",
    )
    parser.add_argument("--python", type=Path, help="Python of the serving environment (default: .venv-serving)")
    parser.add_argument(
        "--drain-seconds",
        dest="drain_s",
        type=numbers.number(0, 600),
        default=ServerOptions.drain_s,
        help="on SIGTERM: how long new requests are refused while those in flight end, before it stops "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--ready-timeout",
        dest="ready_timeout_s",
        type=numbers.seconds,
        default=ServerOptions.ready_timeout_s,
        help="seconds (default: %(default)s)",
    )
    parser.add_argument(
        "--no-restart",
        dest="revive",
        action="store_false",
        help="start neither the server nor a model again that ends by itself",
    )
    parser.add_argument(
        "--as-built", action="store_true", help="serve the build as it is, whatever `endcap apply` has made live before"
    )
    parser.add_argument("--verbose", action="store_true", help="verbose server log")
    parser.set_defaults(run=_serve)


def _add_access_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("access (docs/operations.md)").add_argument
    add(
        "--tls",
        nargs=2,
        type=Path,
        metavar=("CERTIFICATE", "KEY"),
        help="PEM files: gRPC speaks TLS, HTTP stays inside",
    )
    add("--client-ca", type=Path, metavar="FILE", help="PEM file: only clients that it has signed are let in (mTLS)")
    add("--plaintext", action="store_true", help="listen without TLS where others reach the server")
    add("--metrics-address", metavar="ADDRESS", help="of Prometheus (default: --address, with TLS 127.0.0.1)")
    add("--key-file", type=Path, metavar="FILE", help="the control key, made if missing (default: BUILD/control.key)")
    add("--open-control", dest="restricted", action="store_false", help="control calls need no key; on loopback only")


def _serve(arguments: argparse.Namespace) -> int:
    if arguments.client_ca and not arguments.tls:
        print("endcap serve: --client-ca needs --tls: clients show certificates only on TLS", file=sys.stderr)
        return 1
    tls = ServerTls(arguments.tls[0], arguments.tls[1], arguments.client_ca) if arguments.tls else None
    given = {each.name: getattr(arguments, each.name) for each in fields(ServerOptions) if each.name != "tls"}
    options = ServerOptions(**given, tls=tls)
    try:
        with _stop_on_signals() as signals, Server(options, _report) as server, signals.drained(server):
            print(
                f"endcap serves {options.build}: grpc {server.grpc_address}, "
                f"http {server.http_address}, metrics {server.metrics_address}"
                f"{f', health {server.health_address}' if server.health_address else ''} "
                f"(log: {server.log.path}; Ctrl-C stops)",
                flush=True,
            )
            if server.generation is not None and server.generation.is_applied:
                _report(
                    f"generation {server.generation.number}, applied from {server.generation.source}, is live; "
                    "--as-built serves the build as it is"
                )
            if options.revive:
                Supervisor(server, _report).run()
            status = server.wait()
            print(f"endcap: the server stopped by itself with status {status}; see {server.log.path}", file=sys.stderr)
            return 1
    except LaunchError as error:
        print(f"endcap serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("endcap: stopped", flush=True)
        return 0


def _report(line: str) -> None:
    print(f"endcap: {line}", file=sys.stderr, flush=True)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, after which requests in flight complete; Ctrl-C stops at once."""


class _stop_on_signals:  # noqa: N801 - reads as a statement
    """Turn SIGTERM and SIGINT into KeyboardInterrupt; ignore repeats while the server is being stopped."""

    def __enter__(self) -> "_stop_on_signals":
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        self._listen()
        return self

    @contextmanager
    def drained(self, server: Server) -> Iterator[None]:
        """After SIGTERM, drain the server before it stops; a second signal ends the draining."""
        try:
            yield
        except _Terminated:
            self._listen()
            if server.options.drain_s:
                _report(f"refusing requests for {server.options.drain_s:g} s, then stopping; once more stops at once")
                server.drain()
            raise

    def _listen(self) -> None:
        for each in self._before:
            signal.signal(each, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        for each in self._before:
            signal.signal(each, signal.SIG_IGN)
        raise _Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
