"""The control key of a server: for loading models, statistics, shared memory, trace and log settings.

Triton compares a header of each such call with a value given at its start. The value is in a file that only its owner
can read: whoever can read the file can control the server. Inference, health and metadata need no key.
"""

import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from endcap_server.serving.errors import LaunchError

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient

RESTRICTED = ("model-repository", "model-config", "statistics", "shared-memory", "trace", "logging")
"""Triton's names of the API groups that need the key, the same for gRPC and HTTP."""
HTTP_HEADER = "endcap-key"
GRPC_HEADER = f"triton-grpc-protocol-{HTTP_HEADER}"
"""Name of the gRPC metadata; the prefix is Triton's."""
KEY_FILE = "control.key"
_KEY = re.compile(r"[A-Za-z0-9_-]{16,128}")
_WIDER = stat.S_IRWXG | stat.S_IRWXO


def key_file_of(build: Path) -> Path:
    """Default file of the control key of a build's server."""
    return build / KEY_FILE


def control_headers(build: Path, key_file: Path | None = None) -> dict[str, str]:
    """Headers of control calls to the server of `build`, for HTTP and gRPC.

    Args:
        build: The build that the server was started on.
        key_file: Where its key is, if not in the build.

    Returns:
        Header name -> value; empty without a key file: the server was started without a key, or elsewhere.

    Raises:
        LaunchError: The file may be read by others, is not readable, or holds no key.
    """
    path = key_file or key_file_of(build)
    return headers(read_key(path)) if path.exists() else {}


def headers(key: str) -> dict[str, str]:
    """The headers of control calls for HTTP and gRPC; each protocol ignores the other's. None for an empty key."""
    return {HTTP_HEADER: key, GRPC_HEADER: key} if key else {}


def ensure_key(path: Path) -> str:
    """The key in `path`; without the file, create it with a random key and mode 0600.

    Raises:
        LaunchError: As :func:`read_key`, or the file cannot be written.
    """
    if not path.exists():
        try:
            _make_key(path)
        except OSError as error:
            raise LaunchError(
                f"cannot write the control key {path} ({error.strerror}); name another --key-file"
            ) from None
    return read_key(path)


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(f"{secrets.token_hex(16)}\n")
    try:
        # If two servers start at once, both use the first file, and neither reads an incomplete key.
        with suppress(FileExistsError):
            os.link(new, path)
    finally:
        new.unlink()


def read_key(path: Path) -> str:
    """The key in `path`.

    Raises:
        LaunchError: Other users can read or write the file, it is not readable, or it has no key.
    """
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            key = file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise LaunchError(f"cannot read the control key {path} ({why}); name the file with --key-file") from None
    if mode & _WIDER:
        raise LaunchError(
            f"{path}: expected mode 0600, since whoever reads the key controls the server, got {mode:04o}; delete the "
            "file for a new key, or run chmod 600 on it if nobody can have read this one"
        )
    if not _KEY.fullmatch(key):
        raise LaunchError(
            f"{path}: expected a key of 16 to 128 letters, digits, - and _, got {len(key)} characters that are none; "
            "delete the file for a new one"
        )
    return key


def restriction_flags(key: str) -> list[str]:
    """Flags of tritonserver that restrict control calls to callers with the key; none for an empty key."""
    if not key:
        return []
    restricted = f"{','.join(RESTRICTED)}:{HTTP_HEADER}={key}"
    return [f"--grpc-restricted-protocol={restricted}", f"--http-restricted-api={restricted}"]


def connect(address: str, key: str, **options: Any) -> "InferenceServerClient":
    """Triton's own gRPC client, which sends the key with every call.

    Args:
        address: HOST:PORT of the gRPC service.
        key: The control key, "" for none.
        options: Other arguments of `tritonclient.grpc.InferenceServerClient`, such as `ssl` and `root_certificates`.
    """
    from tritonclient.grpc import InferenceServerClient

    client = InferenceServerClient(address, **options)
    client.register_plugin(_SendHeaders(headers(key)))
    return client


class _SendHeaders:
    """A plugin of tritonclient, which calls it before each request."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def __call__(self, request: Any) -> None:
        request.headers.update(self._headers)
