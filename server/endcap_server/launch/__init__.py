"""Starting and stopping the real tritonserver on a build."""

from endcap_server.launch.installation import Installation, LaunchError, find_installation
from endcap_server.launch.server import Server, ServerOptions

__all__ = ["Installation", "LaunchError", "Server", "ServerOptions", "find_installation"]
