"""Ends a model's process after it was stopped and continued."""

import ctypes
import signal


def end_when_continued() -> None:
    """Make this process end at once when it continues after a stop (SIGSTOP, a debugger, a freezer).

    The server reclaims the memory of requests that a model has not started within a second. A model that continues
    would read memory with other contents and could crash the server. If it ends instead, the launcher loads it again.
    The handler is `_exit` of the C library, because a Python handler would only run after the memory was read.
    """
    library = ctypes.CDLL(None)
    library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    library.signal(signal.SIGCONT, ctypes.cast(library._exit, ctypes.c_void_p))
