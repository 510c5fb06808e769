import math

import pytest
import torch
from endcap_kernels import margin_scores, recorded_launches
from endcap_kernels.margin_scores import _margin_scores, _margin_scores_plain
from ragged_inputs import normal, offsets_of, relative_error
from references import reference_margin_scores, weights_of
from torch import Tensor


@pytest.mark.parametrize("offsets_type", [torch.int32, torch.int64])
@pytest.mark.parametrize(("rows", "size"), [(1, 384), (2, 768), (31, 16), (111, 48), (65, 144), (3, 1024)])
def test_equals_the_reference_in_float32(rows: int, size: int, offsets_type: torch.dtype) -> None:
    sizes = [1 + row % 3 for row in range(rows)]
    hidden, offsets = normal(sum(sizes), size), offsets_of(sizes, offsets_type)
    with recorded_launches() as launched:
        scores = margin_scores(hidden, offsets, *weights_of(size))
    assert launched == ["_margin_scores_kernel"]
    expected = reference_margin_scores(hidden.double(), offsets, *(w.double() for w in weights_of(size)))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected.float(), rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_no_more_than_plain_torch(dtype: torch.dtype) -> None:
    hidden, offsets, weights = normal(40, 96, dtype=dtype), offsets_of([1] * 40), weights_of(96, dtype)
    expected = reference_margin_scores(hidden.double(), offsets, *(w.double() for w in weights))
    plain = reference_margin_scores(hidden, offsets, *weights)
    assert relative_error(margin_scores(hidden, offsets, *weights), expected) < 2 * relative_error(plain, expected)


def test_large_states_saturate() -> None:
    hidden, weights = normal(4, 32, scale=1e4), weights_of(32)
    offsets = offsets_of([1] * 4)
    torch.testing.assert_close(
        margin_scores(hidden, offsets, *weights), reference_margin_scores(hidden, offsets, *weights)
    )


def test_empty_sequences_and_none() -> None:
    weights, hidden = weights_of(32), normal(5, 32)
    scores = margin_scores(hidden, offsets_of([0, 3, 0, 2, 0]), *weights)
    assert scores.isnan().tolist() == [True, False, True, False, True]
    assert len(margin_scores(hidden[:0], offsets_of([]), *weights)) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_stay_in_their_row(bad: float) -> None:
    hidden = normal(3, 32)
    hidden[1] = bad
    scores = margin_scores(hidden, offsets_of([1, 1, 1]), *weights_of(32))
    assert scores.isnan().tolist() == [False, True, False]


def test_batch_invariant_identical_in_every_run_and_not_contiguous() -> None:
    wide, offsets, weights = normal(90, 2 * 64), offsets_of([1] * 90), weights_of(64)
    hidden = wide[:, ::2]
    together = margin_scores(hidden, offsets, *weights)
    assert torch.equal(together, margin_scores(hidden.contiguous(), offsets, *weights))
    assert torch.equal(together, margin_scores(wide.reshape(180, 64)[::2] * 0 + hidden, offsets, *weights))
    alone = margin_scores(hidden[70:71], offsets_of([1]), *weights)
    assert torch.equal(together[70:71], alone)
    torch.testing.assert_close(together, reference_margin_scores(hidden, offsets, *weights), rtol=1e-5, atol=3e-6)


def test_plain_path_agrees() -> None:
    hidden, offsets, weights = normal(9, 48), offsets_of([2, 0, 3, 4]), weights_of(48)
    kernel, plain = margin_scores(hidden, offsets, *weights), _margin_scores_plain(hidden, offsets, *weights)
    torch.testing.assert_close(kernel, plain, equal_nan=True)


def test_custom_op_contract() -> None:
    arguments = (normal(5, 32), offsets_of([2, 3]), *weights_of(32))
    torch.library.opcheck(_margin_scores, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, normal(4), r"hidden: expected shape \[tokens, H\], got \[4\]"),
        (0, normal(4, 20), "hidden: expected H to be a multiple of 16, got 20"),
        (2, normal(16, 32), r"pooler_weight: expected shape \[32, 32\], got \[16, 32\]"),
        (3, normal(32).half(), "pooler_bias: expected float32, got float16"),
        (5, torch.zeros(1, device="meta"), "score_bias: expected device .*, got meta"),
    ],
)
def test_wrong_input(place: int, value: Tensor, message: str) -> None:
    arguments = [normal(4, 32), offsets_of([1, 3]), *weights_of(32)]
    arguments[place] = value
    with pytest.raises(ValueError, match=message):
        margin_scores(*arguments)
