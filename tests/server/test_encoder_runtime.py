from pathlib import Path

import numpy as np
import pytest
from endcap_server.engines.encoder_runtime import EncoderRuntime, EngineLoadError, RuntimeOptions, plan_micro_batches
from hypothesis import given
from hypothesis import strategies as st


@given(
    lengths=st.lists(st.integers(1, 80), max_size=200),
    token_budget=st.integers(80, 500),
    streams=st.integers(1, 4),
)
def test_plan_holds_every_row_once_and_keeps_the_budget(lengths: list[int], token_budget: int, streams: int) -> None:
    array = np.array(lengths, np.int64)
    batches = plan_micro_batches(array, token_budget, streams)
    rows = np.concatenate([np.zeros(0, np.int64), *batches])
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    assert np.diff(array[rows]).max(initial=0) <= 0  # the longest first
    for batch in batches:
        # Cut where the running sum passes a share of it: a batch exceeds its share by less than one sequence.
        assert array[batch].sum() < token_budget + array[batch].max()


def test_streams_get_equal_work() -> None:
    batches = plan_micro_batches(np.full(100, 30), token_budget=448, streams=2)
    assert [len(batch) for batch in batches] == [12, 13, 12, 13, 12, 13, 12, 13]


def test_one_sequence_longer_than_the_budget() -> None:
    assert [batch.tolist() for batch in plan_micro_batches(np.array([500]), 64, 2)] == [[0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RuntimeOptions(precision="int4"), "precision: expected auto, f32 or bf16, got 'int4'"),
        (RuntimeOptions(threads=-1), "threads: expected at least 0, got -1"),
        (RuntimeOptions(token_budget=0), "token_budget: expected at least 1, got 0"),
    ],
)
def test_options_are_checked(options: RuntimeOptions, message: str) -> None:
    with pytest.raises(EngineLoadError, match=message):
        options.resolved()


def test_there_are_no_more_streams_than_threads() -> None:
    assert RuntimeOptions(threads=2, streams=8, precision="f32").resolved().streams == 2


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(EngineLoadError, match=r"model\.xml: expected an exported encoder, found none"):
        EncoderRuntime(tmp_path / "model.xml", RuntimeOptions())
