import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from endcap_server.launch.command_line import hide_argument

SECRET = "0123456789abcdef0123456789abcdef"
REPORT = "import sys; sys.stdin.readline(); print(sys.argv[1:])"


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", REPORT, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.communicate("\n", 20)


def shown(process: int) -> str:
    return subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(process)], capture_output=True, text=True).stdout


def test_ps_does_not_show_it_any_more() -> None:
    with running("--one=a", f"--key={SECRET}", "--two=b", f"--again={SECRET}{SECRET}") as process:
        assert shown(process.pid).count(SECRET) == 3
        if not hide_argument(process.pid, SECRET):
            assert shown(process.pid).count(SECRET) == 3, "nothing was half done"
            pytest.skip("the kernel lets nobody write a process's memory")
        stars = "*" * len(SECRET)
        assert shown(process.pid).strip().endswith(f"--one=a --key={stars} --two=b --again={stars}{stars}")


def test_what_is_not_there_is_hidden() -> None:
    with running("--one=a") as process:
        before = shown(process.pid)
        assert hide_argument(process.pid, SECRET)
        assert shown(process.pid) == before


def test_a_process_that_has_ended() -> None:
    with running() as process:
        pass
    assert not hide_argument(process.pid, SECRET)
