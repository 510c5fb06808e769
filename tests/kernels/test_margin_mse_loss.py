import math
from itertools import pairwise

import pytest
import torch
from endcap_kernels import margin_mse_loss, recorded_launches
from endcap_kernels.margin_mse_loss import _gradient_plain, _margin_mse, _sums_plain
from hypothesis import given, settings
from hypothesis import strategies as st
from ragged_inputs import SIZES, normal, offsets_of, relative_error
from references import reference_margin_mse_loss
from torch import Tensor

FORWARD = ["_margin_mse_sums_kernel", "_margin_mse_total_kernel"]
BACKWARD = ["_margin_mse_gradient_kernel"]


def all_pairs(scores: Tensor, targets: Tensor, offsets: Tensor, weights: Tensor, reduction: str) -> Tensor:
    """The definition: a double loop."""
    error = norm = scores.new_zeros(())
    bounds = offsets.tolist()
    for start, end in pairwise(bounds):
        for i in range(start, end):
            for j in range(i + 1, end):
                weight = weights[i] * weights[j]
                error = error + weight * ((scores[i] - scores[j]) - (targets[i] - targets[j])) ** 2
                norm = norm + weight
    return error / norm if reduction == "mean" and norm > 0 else error


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_equals_the_reference(sizes: list[int], weighted: bool) -> None:
    count, offsets = sum(sizes), offsets_of(sizes, torch.int64)
    scores, targets = normal(count, seed=1).requires_grad_(), normal(count, seed=2)
    weights = normal(count, seed=3).abs() if weighted else None
    with recorded_launches() as launched:
        loss = margin_mse_loss(scores, targets, offsets, weights)
        loss.backward()
    assert launched == (FORWARD + BACKWARD if count else [])
    wide = scores.detach().double().requires_grad_()
    expected = reference_margin_mse_loss(wide, targets.double(), offsets, None if weights is None else weights.double())
    expected.backward()
    torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=1e-6)
    assert scores.grad is not None
    assert wide.grad is not None
    torch.testing.assert_close(scores.grad, wide.grad.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_closed_form_equals_all_pairs(reduction: str) -> None:
    sizes = [3, 0, 1, 8, 2]
    scores, targets, weights = (normal(14, seed=seed, dtype=torch.float64) for seed in (1, 2, 3))
    offsets, weights = offsets_of(sizes), weights.abs()
    result = margin_mse_loss(scores, targets, offsets, weights, reduction)
    torch.testing.assert_close(result, all_pairs(scores, targets, offsets, weights, reduction))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradcheck(reduction: str) -> None:
    offsets = offsets_of([1, 4, 0, 3])
    scores, targets = (normal(8, seed=seed, dtype=torch.float64).requires_grad_() for seed in (1, 2))
    weights = normal(8, seed=3, dtype=torch.float64).abs()
    assert torch.autograd.gradcheck(
        lambda s, t: margin_mse_loss(s, t, offsets, weights, reduction), (scores, targets), nondet_tol=0.0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    scores, targets, offsets = (
        normal(97, dtype=dtype).requires_grad_(),
        normal(97, seed=2, dtype=dtype),
        offsets_of([97]),
    )
    loss = margin_mse_loss(scores, targets, offsets)
    loss.backward()
    wide = scores.detach().float().requires_grad_()
    expected = reference_margin_mse_loss(wide, targets.float(), offsets)
    expected.backward()
    plain = scores.detach().clone().requires_grad_()
    reference_margin_mse_loss(plain, targets, offsets).backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert wide.grad is not None
    assert plain.grad is not None
    assert scores.grad is not None
    assert relative_error(scores.grad, wide.grad) < 2 * relative_error(plain.grad, wide.grad)


def test_one_giant_group_with_a_large_common_offset() -> None:
    scores, targets, offsets = normal(1023) + 1000, normal(1023, seed=2), offsets_of([1023])
    expected = reference_margin_mse_loss(scores.double(), targets.double(), offsets)
    torch.testing.assert_close(margin_mse_loss(scores, targets, offsets), expected.float(), rtol=1e-5, atol=0)


def test_no_pairs_no_loss_and_no_gradient() -> None:
    scores = normal(3).requires_grad_()
    loss = margin_mse_loss(scores, normal(3, seed=2), offsets_of([1, 1, 0, 1]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_equal_margins_cost_nothing() -> None:
    targets = normal(40)
    assert float(margin_mse_loss(targets + 3, targets, offsets_of([15, 25]))) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_show_in_the_loss_and_spoil_no_other_group(bad: float) -> None:
    scores = normal(20)
    scores[3] = bad
    scores.requires_grad_()
    loss = margin_mse_loss(scores, normal(20, seed=2), offsets_of([8, 12]))
    loss.backward()
    assert math.isnan(loss.detach())
    assert scores.grad is not None
    assert scores.grad[8:].isfinite().all()
    assert not scores.grad[3].isfinite()


def test_run_to_run_identical_and_not_contiguous() -> None:
    scores, targets, offsets = normal(400), normal(400, seed=2), offsets_of([33] * 6 + [2])
    first = margin_mse_loss(scores[::2], targets[::2], offsets)
    second = margin_mse_loss(scores[::2].clone(), targets[::2].clone(), offsets)
    assert torch.equal(first, second)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(0, 1000))
def test_properties(sizes: list[int], seed: int) -> None:
    count, offsets = sum(sizes), offsets_of(sizes)
    scores, targets = normal(count, seed=seed), normal(count, seed=seed + 1)
    loss = margin_mse_loss(scores, targets, offsets)
    assert float(loss) >= 0
    # Only differences matter, and weights of one are no weights.
    torch.testing.assert_close(loss, margin_mse_loss(scores + 5, targets - 3, offsets), rtol=1e-3, atol=1e-5)
    assert torch.equal(loss, margin_mse_loss(scores, targets, offsets, torch.ones_like(scores)))


def test_plain_path_agrees() -> None:
    scores, targets, weights = normal(60), normal(60, seed=2), normal(60, seed=3).abs()
    offsets = offsets_of([20, 0, 39, 1])
    loss, divisor = _margin_mse(scores, targets, offsets, weights, True)
    squares, pairs = _sums_plain(scores, targets, offsets, weights)
    torch.testing.assert_close((loss, divisor), (squares / pairs, pairs))
    scores.requires_grad_()
    margin_mse_loss(scores, targets, offsets, weights).backward()
    assert scores.grad is not None
    torch.testing.assert_close(
        scores.grad, _gradient_plain(1 / pairs, scores.detach(), targets, offsets, weights), rtol=1e-4, atol=1e-7
    )


def test_custom_op_contract() -> None:
    arguments = (normal(9).requires_grad_(), normal(9, seed=2), offsets_of([4, 5]), None, True)
    torch.library.opcheck(
        _margin_mse, arguments, test_utils=("test_schema", "test_faketensor", "test_autograd_registration")
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": normal(5)}, r"targets: expected shape \[4\], got \[5\]"),
        ({"targets": normal(4).half()}, "targets: expected float32, got float16"),
        ({"scores": torch.zeros(4, dtype=torch.int64)}, "scores: expected float32 .*, got int64"),
        ({"weights": normal(4).requires_grad_()}, "weights: expected a tensor without gradient"),
        ({"reduction": "max"}, "reduction: expected mean or sum, got 'max'"),
    ],
)
def test_wrong_input(change: dict[str, object], message: str) -> None:
    arguments = {"scores": normal(4), "targets": normal(4), "offsets": offsets_of([4]), **change}
    with pytest.raises(ValueError, match=message):
        margin_mse_loss(**arguments)  # type: ignore[arg-type]


def test_runs_in_plain_torch_without_the_interpreter(plain_process) -> None:
    plain_process("""
import torch
from endcap_kernels import margin_mse_loss, recorded_launches
scores = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
offsets = torch.tensor([0, 3])
with recorded_launches() as launched:
    loss = margin_mse_loss(scores, torch.zeros(3), offsets)
    loss.backward()
assert launched == []
assert torch.isclose(loss, torch.tensor((1 + 4 + 9) / 3)), loss
assert torch.allclose(scores.grad, 2 / 3 * torch.tensor([-4.0, -1.0, 5.0])), scores.grad
""")
