"""Starting and stopping the real tritonserver on a build."""

from endcap_server.launch.installation import Installation, find_installation
from endcap_server.launch.listening import ServerTls
from endcap_server.launch.options import ServerOptions
from endcap_server.launch.server import Server
from endcap_server.launch.supervisor import Supervisor
from endcap_server.serving.access import connect, control_headers
from endcap_server.serving.errors import LaunchError

__all__ = [
    "Installation",
    "LaunchError",
    "Server",
    "ServerOptions",
    "ServerTls",
    "Supervisor",
    "connect",
    "control_headers",
    "find_installation",
]
