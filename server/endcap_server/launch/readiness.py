"""Makes a running server say that it is not ready.

Triton 24.10 has no call for that. Its readiness turns false only with a signal, on which it resets connections at once,
or (with strict readiness) with any model that is being loaded, which every rollout does. So the function that answers
the question is replaced in the memory of the server's process, where its parent may write: `/v2/health/ready`, gRPC's
ServerReady and gRPC's health service all ask it. Requests do not.
"""

import os
import platform
import subprocess
from pathlib import Path

from endcap_server.launch.installation import Installation

_FUNCTION = "TRITONSERVER_ServerIsReady"
"""Error* (Server* server, bool* ready), of Triton's C API."""
_LIBRARY = "libtritonserver"
_NOT_READY = {
    # xor eax, eax; mov byte ptr [rsi], 0; ret; padded to one machine word
    "x86_64": bytes.fromhex("31c0 c60600 c3 9090"),
    # strb wzr, [x1]; mov x0, #0; ret
    "aarch64": bytes.fromhex("3f000039 000080d2 c0035fd6"),
}
"""Machine code by architecture: the server is not ready, and to ask was no error."""
_FIND = """
import ctypes, sys
path, name = sys.argv[1:]
address = ctypes.cast(getattr(ctypes.CDLL(path), name), ctypes.c_void_p).value
maps = [line.split() for line in open("/proc/self/maps")]
print(address - min(int(each[0].split("-")[0], 16) for each in maps if each[-1] == path))
"""


def say_not_ready(process: int, installation: Installation) -> bool:
    """Let a server answer from now on that it is not ready; all else goes on.

    Args:
        process: Its id; a child of ours, or one that we may trace.
        installation: What it was started from.

    Returns:
        Whether it does so now: not where the kernel forbids to write that memory, or on other processors.
    """
    code = _NOT_READY.get(platform.machine())
    try:
        base, library = _mapped(process)
        command = [str(installation.python), "-I", "-c", _FIND, library, _FUNCTION]
        found = subprocess.run(command, env=installation.environment(), capture_output=True, text=True, check=True)
        if code is None:
            return False
        memory = os.open(f"/proc/{process}/mem", os.O_RDWR)
        try:
            return os.pwrite(memory, code, base + int(found.stdout)) == len(code)
        finally:
            os.close(memory)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return False


def _mapped(process: int) -> tuple[int, str]:
    """Where the server's library begins in its memory, and its path; raises ValueError."""
    lines = [line.split() for line in Path(f"/proc/{process}/maps").read_text(encoding="utf-8").splitlines()]
    of_library = [(int(each[0].partition("-")[0], 16), each[-1]) for each in lines if _LIBRARY in Path(each[-1]).name]
    if not of_library:
        raise ValueError(f"no {_LIBRARY} in process {process}")
    return min(of_library)
