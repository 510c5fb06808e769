"""Options of `endcap serve`."""

from dataclasses import dataclass
from pathlib import Path

from endcap_server.launch.listening import ServerTls


@dataclass(frozen=True)
class ServerOptions:
    """Options of `endcap serve`. For port 0, a free port is used."""

    build: Path
    address: str = "127.0.0.1"
    grpc_port: int = 8001
    http_port: int = 8000
    metrics_port: int = 8002
    health_port: int | None = None
    """Port of health checks for load balancers; None: none."""
    profile: str = "cpu"
    python: Path | None = None
    ready_timeout_s: float = 120.0
    verbose: bool = False
    drain_s: float = 5.0
    """Seconds from SIGTERM to the stop. New requests are refused, and those in flight complete."""
    revive: bool = True
    """Whether models whose processes have died are loaded again."""
    restricted: bool = True
    """Whether control calls need the key."""
    key_file: Path | None = None
    """File of the control key; None: `control.key` in the build."""
    tls: ServerTls | None = None
    plaintext: bool = False
    """Whether to listen without TLS on an address other than loopback."""
    metrics_address: str | None = None
    """None: `address`, or loopback with TLS."""
    facts: Path | None = None
    """Folder of stock, prices and standing rules; None: `facts` in the build."""
    exposures: Path | None = None
    """Folder of the records of what was shown; None: `exposures` in the build."""
    as_built: bool = False
    """Whether to serve the build itself instead of the generation that was live."""
