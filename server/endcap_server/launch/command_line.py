"""Takes a secret out of the command line of a running process.

Triton takes the control key on its command line and nowhere else, and every user of the machine may read every command
line. The program has copied its arguments once it logs that it loads models; then the text is overwritten where `ps`
reads it, in the memory of the process, which its parent may write.
"""

import os
from pathlib import Path

_ARG_START, _ARG_END = 45, 46
"""Fields of /proc/PID/stat after the program's name (proc(5) counts from 1, and the name and the id before it)."""


def hide_argument(process: int, secret: str) -> bool:
    """Overwrite every `secret` in the command line of a process with asterisks.

    Args:
        process: Its id; a child of ours, or one that we may trace.
        secret: ASCII text.

    Returns:
        Whether the command line is now without it: not where the kernel forbids to write that memory.
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
