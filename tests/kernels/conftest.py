"""Fixtures of the kernel tests."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest


@pytest.fixture
def plain_process() -> Callable[[str], str]:
    """Runs Python code in a process without Triton's interpreter and without a GPU; returns what it printed."""

    def run(code: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
