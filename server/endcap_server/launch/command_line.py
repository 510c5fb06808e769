"""Removes a secret from the command line of a running process.

Triton accepts the control key only on its command line, which every user of the machine can read. When Triton logs that
it loads models, it has copied its arguments. The text is then overwritten in the memory of the process, where `ps`
reads it; a parent process may write there.
"""

import os
from pathlib import Path

_ARG_START, _ARG_END = 45, 46
"""Fields of /proc/PID/stat after the program's name (proc(5) counts from 1, and the name and the id before it)."""


def hide_argument(process: int, secret: str) -> bool:
    """Overwrite every `secret` in the command line of a process with asterisks.

    Args:
        process: Id of a child process, or of one that we may trace.
        secret: ASCII text.

    Returns:
        Whether the secret is removed; False if the kernel does not allow to write that memory.
    """
    folder, hidden = Path(f"/proc/{process}"), secret.encode()
    try:
        fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        memory = os.open(folder / "mem", os.O_RDWR)
        try:
            text = os.pread(memory, end - start, start)
            at = text.find(hidden)
            while at >= 0:
                os.pwrite(memory, b"*" * len(hidden), start + at)
                at = text.find(hidden, at + len(hidden))
        finally:
            os.close(memory)
        return hidden not in (folder / "cmdline").read_bytes()
    except OSError:
        return False
