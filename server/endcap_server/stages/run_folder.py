"""The private folder that the processes of one server share."""

import os
import stat
import tempfile
from pathlib import Path

DRAINING = "draining"
"""File in the run folder: while it exists, new requests are refused, because the server is about to stop."""


def run_folder() -> Path:
    """``$ENDCAP_RUN_DIR``, or a private temporary folder that the processes of one parent (the server) share.

    Raises:
        PermissionError: The temporary folder exists and belongs to somebody else.
    """
    if configured := os.environ.get("ENDCAP_RUN_DIR"):
        folder = Path(configured)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder = Path(tempfile.gettempdir()) / f"endcap-{os.getuid()}-{os.getppid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid() or stat.S_IMODE(folder.stat().st_mode) & 0o022:
        raise PermissionError(f"{folder}: expected a private folder of this user; remove it or set ENDCAP_RUN_DIR")
    return folder
