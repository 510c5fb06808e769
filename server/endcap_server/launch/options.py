"""What `endcap serve` can be told."""

from dataclasses import dataclass
from pathlib import Path

from endcap_server.launch.listening import ServerTls


@dataclass(frozen=True)
class ServerOptions:
    """What `endcap serve` can be told. Ports of 0 are picked free."""

    build: Path
    address: str = "127.0.0.1"
    grpc_port: int = 8001
    http_port: int = 8000
    metrics_port: int = 8002
    health_port: int | None = None
    """Where load balancers ask for /ready; None: nowhere."""
    profile: str = "cpu"
    python: Path | None = None
    ready_timeout_s: float = 120.0
    verbose: bool = False
    drain_s: float = 5.0
    """How long a server that is told to stop refuses requests before it does; those in flight end meanwhile."""
    revive: bool = True
    """Load models again whose processes have died."""
    restricted: bool = True
    """Control calls need the key."""
    key_file: Path | None = None
    """Where the key is, or will be; None is `control.key` in the build."""
    tls: ServerTls | None = None
    plaintext: bool = False
    """Listen without TLS where others can reach the server."""
    metrics_address: str | None = None
    """None is `address`, or loopback if there is TLS."""
    as_built: bool = False
    """Serve the build as it is, whatever `endcap apply` has made live before."""
