"""The processes of a running server's models."""

import os
from pathlib import Path

_STUB = "triton_python_backend_stub"


def model_processes(group: int) -> dict[int, str]:
    """Process id -> model name of the running model processes in a server's process group."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if os.getpgid(int(folder.name)) != group:
                continue
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile
            continue
        if len(command) < 2 or not command[0].endswith(_STUB.encode()):
            continue
        model_file = Path(os.fsdecode(command[1]))
        # A process that is starting or ending can have no arguments.
        if len(model_file.parents) > 1:
            found[int(folder.name)] = model_file.parents[1].name
    return found
