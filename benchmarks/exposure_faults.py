"""Faults of where exposures are written: a full disk, a disk that hangs, a broker that hangs or dies."""

import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.mock_kafka import MockBroker

TOPIC = "shown"
_WAITING = "100"
"""Records that wait, so few that a fault of some seconds fills the queue."""


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Place:
    """Where exposures go.

    Attributes:
        folder: Of exposures.
        parameters: Of fusion.
        begin, end: Begin and end the fault.
        broker: Where they go instead, if it is Kafka.
        kept: Whether what was written can be read after the fault.
    """

    folder: Path
    parameters: Mapping[str, str] = field(default_factory=dict)
    begin: Callable[[], None] = _nothing
    end: Callable[[], None] = _nothing
    broker: MockBroker | None = None
    kept: bool = True


@contextmanager
def no_fault(folder: Path) -> Iterator[Place]:
    """A disk that has room."""
    yield Place(folder / "exposures")


@contextmanager
def full_disk(folder: Path) -> Iterator[Place]:
    """A tmpfs of 16 MB, which another file fills during the fault. Needs root."""
    with _mounted(folder, "-t", "tmpfs", "-o", "size=16m", "tmpfs") as disk:
        filler = disk / "filler"

        def fill() -> None:
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                for size in (1 << 20, 1 << 12):
                    with suppress(OSError):
                        while file.write(bytes(size)) == size:
                            pass

        yield Place(disk / "exposures", {"exposure_segment_rows": "200"}, fill, filler.unlink)


@contextmanager
def frozen_disk(folder: Path) -> Iterator[Place]:
    """An ext4 file system in a file, which `fsfreeze` stops during the fault: writes hang. Needs root."""
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    with _mounted(folder, "-o", "loop", str(image)) as disk:

        def freeze() -> None:
            subprocess.run(["fsfreeze", "--freeze", str(disk)], check=True)

        def thaw() -> None:  # also at the end, where it may have been done
            subprocess.run(["fsfreeze", "--unfreeze", str(disk)], check=False, stderr=subprocess.DEVNULL)

        try:
            yield Place(disk / "exposures", {"exposures_waiting": _WAITING}, freeze, thaw)
        finally:
            thaw()


@contextmanager
def hanging_broker(folder: Path) -> Iterator[Place]:
    """librdkafka's mock broker, stopped during the fault."""
    with MockBroker() as broker:
        yield Place(folder / "exposures", _kafka(folder, broker, 60_000), broker.pause, broker.go_on, broker)


@contextmanager
def dying_broker(folder: Path) -> Iterator[Place]:
    """librdkafka's mock broker, killed when the fault begins."""
    with MockBroker() as broker:
        yield Place(folder / "exposures", _kafka(folder, broker, 3_000), broker.kill, broker=broker, kept=False)


def _kafka(folder: Path, broker: MockBroker, timeout_ms: int) -> dict[str, str]:
    """Parameters of fusion that send exposures to a broker."""
    settings = {
        "bootstrap.servers": broker.address,
        "queue.buffering.max.messages": _WAITING,
        "message.timeout.ms": str(timeout_ms),
        "log_level": "0",
    }
    file = folder / "kafka.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")
    return {"exposure_kafka": str(file), "exposure_topic": TOPIC, "exposures_waiting": _WAITING}


@contextmanager
def _mounted(folder: Path, *what: str) -> Iterator[Path]:
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", *what, str(disk)], check=True)
    try:
        yield disk
    finally:
        # Lazily: a process that was killed may still be ending.
        subprocess.run(["umount", "--lazy", str(disk)], check=False)
