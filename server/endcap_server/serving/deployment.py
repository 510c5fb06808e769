"""The build that a command is about, and the folder that its servers keep something in."""

from pathlib import Path
from typing import Literal

from endcap_server.serving.errors import ApplyError
from endcap_server.serving.running import find_server, running_servers


class DeploymentError(Exception):
    """It is not clear which build or folder is meant; the message says how to name it."""


def find_deployment(
    build: Path | None, folder: Path | None, kept: Literal["facts", "exposures"], default: str
) -> tuple[Path, Path]:
    """Find a served build, and the folder of its facts or exposures.

    Args:
        build: The build that is served; None: that of the server that runs here.
        folder: What its servers keep there; None: as the server that runs on the build says.
        kept: What is looked for, as `RunningServer` and the option of commands name it.
        default: Name of the folder in the build, if no server runs on it.

    Raises:
        DeploymentError: No server runs, or several with different folders.
    """
    if build is None:
        try:
            server = find_server()
        except ApplyError as error:
            raise DeploymentError(f"{error}, or name the build with --build") from None
        return Path(server.build), folder or Path(getattr(server, kept))
    used = {Path(getattr(server, kept)) for server in running_servers() if Path(server.build) == build.resolve()}
    if folder is None and len(used) > 1:
        there = " and ".join(sorted(map(str, used)))
        raise DeploymentError(f"{build}: its servers have {kept} in {there}; choose one with --{kept}")
    return build, folder or next(iter(used), build / default)
