"""Tests that need a GPU; without one they are skipped, and nothing of theirs is imported."""

import sys
from pathlib import Path

import pytest

# References and inputs are those of the kernel tests.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if torch.cuda.is_available():
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
