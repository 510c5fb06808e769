"""Pictures of products from files, folders, zip archives and addresses, as small RGB images.

A picture that cannot be had is no error: its product keeps the tokens of its text, and the reason is counted. Every
picture is untrusted: sizes are checked before anything is decoded, and addresses of private networks are refused.
"""

import io
import ipaddress
import socket
import ssl
import threading
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from endcap_builders.captions.settings import PictureSettings

_BLOCK = 65_536
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats whose decoders are plain; others of Pillow run programs or have a history of faults."""


class PictureError(Exception):
    """A picture cannot be had; `reason` is one of a few words to count by."""

    def __init__(self, reason: str, detail: str = ""):
        self.reason = reason
        super().__init__(f"{reason}: {detail}" if detail else reason)


class Pictures:
    """Reads the pictures of a catalogue; may be called from several threads."""

    def __init__(self, folder: Path, settings: PictureSettings):
        """Pictures with relative paths lie in ``folder``; an archive is named as `pictures.zip/inner/name.jpg`."""
        self._folder, self._settings = folder.resolve(), settings
        self._archives: dict[Path, zipfile.ZipFile] = {}
        self._lock = threading.Lock()

    def data(self, address: str) -> bytes:
        """The bytes of a picture.

        Raises:
            PictureError: There is none, it is too large, or its address is not allowed.
        """
        scheme = urllib.parse.urlsplit(address).scheme.lower() if "://" in address else ""
        if scheme in ("http", "https"):
            return self._download(address)
        if scheme:
            raise PictureError("address not allowed", f"expected http or https, got {scheme}")
        return self._read(address)

    def image(self, data: bytes) -> Image.Image:
        """The first frame of a picture as it is to be seen: RGB, upright, on white, at most `side` pixels.

        Raises:
            PictureError: It is no picture, a broken one, or one of too many pixels.
        """
        settings = self._settings
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
                if opened.width * opened.height > settings.most_pixels:
                    raise PictureError("too many pixels", f"{opened.width} x {opened.height}")
                opened.draft("RGB", (settings.side, settings.side))
                opened.seek(0)
                upright = ImageOps.exif_transpose(opened)
                if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                    clear = upright.convert("RGBA")
                    upright = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
                made = upright.convert("RGB")
                made.thumbnail((settings.side, settings.side))
                return made
        except PictureError:
            raise
        except UnidentifiedImageError:
            start = data[:200].lstrip().lower()
            page = start.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))
            raise PictureError("a web page" if page else "no picture") from None
        except Image.DecompressionBombError as error:
            raise PictureError("too many pixels", str(error)) from None
        except Exception as error:  # decoders raise anything on broken files
            raise PictureError("broken", f"{type(error).__name__}: {error}") from None

    def _read(self, address: str) -> bytes:
        path = (self._folder / address).resolve()
        if not path.is_relative_to(self._folder):
            raise PictureError("address not allowed", "expected a path within the catalogue")
        archive = next((each for each in path.parents if each.suffix.lower() == ".zip" and each.is_file()), None)
        try:
            if archive is not None:
                return self._from_archive(archive, path.relative_to(archive).as_posix())
            if path.is_dir():
                path = next((each for each in sorted(path.iterdir()) if each.suffix.lower() in _EXTENSIONS), path)
            if path.stat().st_size > self._settings.most_bytes:
                raise PictureError("too large", f"{path.stat().st_size} bytes")
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise PictureError("missing", f"{type(error).__name__}") from None

    def _from_archive(self, archive: Path, name: str) -> bytes:
        with self._lock:
            try:
                if archive not in self._archives:
                    self._archives[archive] = zipfile.ZipFile(archive)
                with self._archives[archive].open(name) as file:
                    # The size that the archive states may be wrong.
                    data = file.read(self._settings.most_bytes + 1)
            except KeyError:
                raise PictureError("missing", f"not in {archive.name}") from None
            except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
                raise PictureError("broken", f"{archive.name}: {error}") from None
        if len(data) > self._settings.most_bytes:
            raise PictureError("too large", f"more than {self._settings.most_bytes} bytes")
        return data

    def _download(self, address: str) -> bytes:
        found: dict[str, Any] = {}
        # A server that sends a byte now and then never meets a socket's timeout.
        worker = threading.Thread(target=self._download_into, args=(address, found), daemon=True)
        worker.start()
        worker.join(self._settings.patience_s)
        if worker.is_alive():
            raise PictureError("no answer", f"within {self._settings.patience_s} s")
        if "error" in found:
            raise found["error"]
        return bytes(found["data"])

    def _download_into(self, address: str, found: dict[str, Any]) -> None:
        settings = self._settings
        try:
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({}), _Http(settings.private), _Https(settings.private)
            )
            request = urllib.request.Request(address, headers={"User-Agent": "endcap", "Accept": "image/*"})
            with opener.open(request, timeout=settings.patience_s) as answer:
                data = bytearray()
                while block := answer.read(_BLOCK):
                    data += block
                    if len(data) > settings.most_bytes:
                        raise PictureError("too large", f"more than {settings.most_bytes} bytes")
            found["data"] = data
        except PictureError as error:
            found["error"] = error
        except (OSError, HTTPException, ValueError) as error:
            cause = getattr(error, "reason", error)
            known = cause if isinstance(cause, PictureError) else PictureError("no answer", f"{error}")
            found["error"] = known


class _Checked:
    """Opens a connection only to a public address, the one that was checked: a second look-up could give another."""

    private = False
    host: str
    port: int
    timeout: Any

    def _connected(self) -> socket.socket:
        try:
            places = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise PictureError("no answer", f"{self.host}: {error}") from None
        for *_, place in places:
            if not self.private and not ipaddress.ip_address(str(place[0]).partition("%")[0]).is_global:
                raise PictureError("address not allowed", f"{self.host} is of a private network")
        host, port = places[0][4][:2]
        return socket.create_connection((str(host), int(port)), self.timeout)


class _HttpConnection(_Checked, HTTPConnection):
    def connect(self) -> None:
        self.sock = self._connected()


class _HttpsConnection(_Checked, HTTPSConnection):
    def connect(self) -> None:
        self.sock = ssl.create_default_context().wrap_socket(self._connected(), server_hostname=self.host)


def _opener(kind: type[HTTPConnection], private: bool) -> Callable[..., HTTPConnection]:
    """Connections of a kind that may lead into private networks, or may not."""

    def connection(host: str, /, **options: Any) -> HTTPConnection:
        made = kind(host, **options)
        made.private = private  # type: ignore[attr-defined]
        return made

    return connection


class _Http(urllib.request.HTTPHandler):
    def __init__(self, private: bool):
        super().__init__()
        self._connection = _opener(_HttpConnection, private)

    def http_open(self, request: urllib.request.Request) -> HTTPResponse:
        answer: HTTPResponse = self.do_open(self._connection, request)
        return answer


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, private: bool):
        super().__init__()
        self._connection = _opener(_HttpsConnection, private)

    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        answer: HTTPResponse = self.do_open(self._connection, request)
        return answer
