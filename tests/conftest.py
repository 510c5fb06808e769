import fcntl
import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Without a GPU, kernels are interpreted on the CPU. Triton decides that when it is first imported, whoever does.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Tests start programs while gRPC's threads are at work, and its handling of a fork may end the new process at once.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")


_TURNS = (
    ("test_apply",),
    ("builders", "kernels"),
    ("real",),
)
"""Files and folders of tests in the order in which they are begun; all others come last."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run everything; the default runs a sample of each kind")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked `long` unless they are asked for, and begin with the longest of what is left.

    The first file makes the test build while other processes run tests that need none.
    """
    left_out = [] if config.getoption("--long") else [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """When a test's file is begun: a long one at the end would be waited for by all processes but one."""
    folder, name = item.path.parent.name, item.path.stem
    return next((turn for turn, files in enumerate(_TURNS) if name in files or folder in files), len(_TURNS))


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what imports have made, which took a second each time a library asks."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Folders that the first test to ask for one makes, for the tests of all processes; not to be written to."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "made-once"
    shared.mkdir(exist_ok=True)

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, whole = shared / name, shared / f"{name}.whole"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def tiny_cross_encoder(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A ``cross_encoder`` folder as the build writes it, of `tiny_encoders.cross_encoder()`."""
    from tiny_encoders import write_cross_encoder

    return made_once("cross_encoder", write_cross_encoder)
