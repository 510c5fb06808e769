"""The process of a model: what it must not do after it was stopped."""

import ctypes
import signal


def end_when_continued() -> None:
    """Let this process end, at once, when it is continued after it was stopped (SIGSTOP, a debugger, a freezer).

    The server takes back the memory of what a model has not begun within a second. A model that then goes on reads
    memory that has become something else, and takes the server down with it; one that ends is loaded again by the
    launcher. The handler is the C library's own `_exit`: one of Python's would only run after that memory was read.
    """
    library = ctypes.CDLL(None)
    library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    library.signal(signal.SIGCONT, ctypes.cast(library._exit, ctypes.c_void_p))
