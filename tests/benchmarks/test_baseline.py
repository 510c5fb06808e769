"""The naive baseline's process."""

from pathlib import Path

import pytest

from benchmarks.baseline import Baseline


def test_a_failure_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"the naive baseline failed: \w+: .*store\.json"), Baseline(tmp_path, 4, 12):
        pass
