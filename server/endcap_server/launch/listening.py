"""Which addresses and ports a server may listen on, and TLS of its gRPC port.

Triton speaks TLS on its gRPC port only. HTTP and metrics therefore stay on loopback where gRPC speaks TLS.
"""

import random
import socket
import ssl
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from endcap_server.serving.errors import LaunchError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PICKED = 20_000
_PICKS = 100


@dataclass(frozen=True)
class ServerTls:
    """TLS of the gRPC port.

    Attributes:
        certificate: PEM file of the server's certificate, and those that signed it.
        private_key: PEM file of its private key.
        client_authority: PEM file of the authorities whose clients can connect (mTLS); None: all clients can.
    """

    certificate: Path
    private_key: Path
    client_authority: Path | None = None

    def check(self) -> None:
        """Raise LaunchError unless the files exist, are PEM, and belong together.

        Triton would start with wrong files, and every handshake would fail.
        """
        for option, path in (
            ("--tls", self.certificate),
            ("--tls", self.private_key),
            ("--client-ca", self.client_authority),
        ):
            if path is not None:
                _check_readable(option, path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # Without a password, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self.certificate, self.private_key, password="")
        except (ssl.SSLError, ValueError) as error:
            raise LaunchError(
                f"--tls: expected a certificate and its own unencrypted key, both PEM, got {self.certificate} and "
                f"{self.private_key} ({_reason(error)})"
            ) from None
        if self.client_authority is None:
            return
        try:
            context.load_verify_locations(self.client_authority)
        except ssl.SSLError as error:
            raise LaunchError(
                f"--client-ca: expected PEM certificates of authorities, got {self.client_authority} ({_reason(error)})"
            ) from None

    def flags(self) -> list[str]:
        """Flags of tritonserver."""
        flags = [f"--grpc-server-cert={self.certificate.resolve()}", f"--grpc-server-key={self.private_key.resolve()}"]
        if self.client_authority is None:
            return ["--grpc-use-ssl=true", *flags]
        return ["--grpc-use-ssl-mutual=true", *flags, f"--grpc-root-cert={self.client_authority.resolve()}"]


def check_address(address: str, tls: ServerTls | None, plaintext: bool, restricted: bool) -> None:
    """Refuse options that open the server more than explicitly requested.

    Args:
        address: Address of gRPC.
        tls: Its TLS, None for plain text.
        plaintext: Whether `--plaintext` was given.
        restricted: Whether control calls need a key.

    Raises:
        LaunchError: The options contradict each other, or open something that needs an explicit option.
    """
    if tls is not None and plaintext:
        raise LaunchError("--tls and --plaintext contradict each other; leave one of them out")
    if address in LOOPBACK:
        return
    if not restricted:
        raise LaunchError(
            f"--open-control on {address} would let everybody who reaches it load models; listen on 127.0.0.1, or "
            "leave --open-control out"
        )
    if tls is None and not plaintext:
        raise LaunchError(
            f"listening on {address} without TLS: whoever sees the network reads shoppers' histories, and the control "
            "key when it is used; give --tls CERTIFICATE KEY, or --plaintext if something in front of the server (a "
            "mesh, a private network) protects it"
        )


def loopback_beside(address: str, tls: ServerTls | None) -> str:
    """Address of HTTP and metrics: that of gRPC, or loopback if gRPC uses TLS."""
    return "127.0.0.1" if tls is not None and address not in LOOPBACK else address


def _check_readable(option: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise LaunchError(f"{option}: cannot read {path} ({error.strerror}); expected a PEM file") from None


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).replace("_", " ").lower()


def joined(address: str, port: int) -> str:
    """HOST:PORT, with brackets around IPv6."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def free_ports(*wanted: tuple[str, int, str]) -> list[int]:
    """The ports to listen on: the requested ones, and a free port for each 0.

    They are checked here, because gRPC silently shares a port that is in use. All are held until the last one is found,
    so that none is returned twice.

    Args:
        wanted: Address, port, and the option that names it.

    Raises:
        LaunchError: a port is in use, or requested twice.
    """
    with ExitStack() as held:
        ports: dict[tuple[str, int], str] = {}
        for address, port, option in wanted:
            if (address, port) in ports:
                both = f"{ports[address, port]} and {option}"
                raise LaunchError(f"{both}: expected two ports, got {port} twice; choose another {option}")
            probe = _bound(address, port, option, reuse=True) if port else _bound_anywhere(address, option)
            held.callback(probe.close)
            ports[address, int(probe.getsockname()[1])] = option
        return [port for _, port in ports]


def _bound(address: str, port: int, option: str, *, reuse: bool = False) -> socket.socket:
    """A socket that holds a port; with `reuse`, connections of a server that has just ended are ignored."""
    probe = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
    try:
        probe.bind((address, port))
    except OSError as error:
        probe.close()
        why = error.strerror or str(error)
        raise LaunchError(f"cannot listen on {address}:{port} ({why}); choose another {option}") from None
    return probe


def _bound_anywhere(address: str, option: str) -> socket.socket:
    """A free port outside the range of outgoing connections, which could take it while the server restarts."""
    try:
        first_of_outgoing = int(_OUTGOING.read_text(encoding="ascii").split()[0])
    except OSError:
        first_of_outgoing = _FIRST_PICKED
    listened = range(_FIRST_PICKED, max(_FIRST_PICKED, first_of_outgoing))
    for port in random.sample(listened, min(len(listened), _PICKS)):
        with suppress(LaunchError):
            return _bound(address, port, option)
    return _bound(address, 0, option)
