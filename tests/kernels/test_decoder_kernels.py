"""The kernels of Llama-class models: norms, rotary embeddings, SwiGLU, logits of candidates."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from endcap_kernels import add_rms_norm, candidate_logits, recorded_launches, rotary_table, rotate, swiglu
from endcap_kernels.candidate_logits import _candidate_logits
from endcap_kernels.rms_norm import _add_rms_norm
from endcap_kernels.rotary import _rotate
from endcap_kernels.swiglu import _swiglu
from ragged_inputs import DEVICE, normal, relative_error
from references import reference_add_rms_norm, reference_candidate_logits, reference_rotate, reference_swiglu
from torch import Tensor

HALF = [torch.bfloat16, torch.float16]
ROPE = {"rope_theta": 100.0, "max_position_embeddings": 40}


def rows(tokens: int, size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    return (
        normal(tokens, size, dtype=dtype),
        normal(size, seed=1, dtype=dtype),
        normal(tokens, size, seed=2, dtype=dtype),
    )


@pytest.mark.parametrize(("tokens", "size"), [(1, 384), (31, 111), (3, 1)])
def test_rms_norm_equals_the_reference(tokens: int, size: int) -> None:
    x, gamma, residual = rows(tokens, size)
    with recorded_launches() as launched:
        total, normed = add_rms_norm(x, gamma, residual)
        alone = add_rms_norm(x, gamma)
    assert launched == ["_add_rms_norm_kernel"] * 2
    assert alone.total is x
    torch.testing.assert_close(total, x + residual)
    torch.testing.assert_close(normed, reference_add_rms_norm(x, gamma, residual)[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone.normed, reference_add_rms_norm(x, gamma)[1], rtol=1e-5, atol=1e-5)


def test_swiglu_and_rotary_equal_the_references() -> None:
    x = 3 * normal(20, 2 * 96)
    qkv, positions = normal(20, 7, 32), torch.arange(20, device=DEVICE)
    table = rotary_table(ROPE, 32, torch.device(DEVICE))
    expected = reference_rotate(qkv, 5, positions, table)
    with recorded_launches() as launched:
        activated = swiglu(x)
        rotate(qkv, 5, positions, table)
    assert launched == ["_swiglu_kernel", "_rotate_kernel"]
    torch.testing.assert_close(activated, reference_swiglu(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(qkv, expected, rtol=1e-5, atol=1e-5)


def test_logits_equal_the_reference_and_do_not_depend_on_the_batch() -> None:
    x, gamma, residual = rows(5, 200)
    heads, counts = normal(19, 200, seed=3), torch.tensor([19, 0, 1, 17, 99], device=DEVICE)
    logits = candidate_logits(x, residual, gamma, heads, counts)
    expected = reference_candidate_logits(x, residual, gamma, heads, counts)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4, equal_nan=True)
    alone = candidate_logits(x[3:4], residual[3:4], gamma, heads, counts[3:4])
    assert torch.equal(alone[0, :17], logits[3, :17])


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_errs_no_more_than_plain_torch(dtype: torch.dtype) -> None:
    x, gamma, residual = rows(20, 96, dtype)
    heads, counts = normal(9, 96, seed=3, dtype=dtype), torch.full((20,), 9, device=DEVICE)
    wide = [tensor.double() for tensor in (x, gamma, residual, heads)]
    for kernel, reference, arguments in (
        (lambda a, b, c, _: add_rms_norm(a, b, c).normed, lambda a, b, c, _: reference_add_rms_norm(a, b, c)[1], ()),
        (lambda a, *_: swiglu(a), lambda a, *_: reference_swiglu(a), ()),
        (lambda a, b, c, d: candidate_logits(a, c, b, d, counts),
         lambda a, b, c, d: reference_candidate_logits(a, c, b, d, counts), ()),
    ):  # fmt: skip
        half = (x, gamma, residual, heads, *arguments)
        assert relative_error(kernel(*half), reference(*wide)) < 2 * relative_error(reference(*half), reference(*wide))
    qkv, positions, table = x.view(20, 3, 32), torch.arange(20, device=DEVICE), rotary_table(ROPE, 32, x.device)
    expected = reference_rotate(qkv.double(), 2, positions, table.double())
    rotate(qkv, 2, positions, table)
    assert relative_error(qkv, expected) < {torch.bfloat16: 4e-3, torch.float16: 5e-4}[dtype]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_stay_in_their_row(bad: float) -> None:
    x, gamma, residual = rows(4, 32)
    x[2, 5] = bad
    assert add_rms_norm(x, gamma, residual).normed.isnan().any(1).tolist() == [False, False, True, False]
    assert swiglu(x).isfinite().all(1).tolist() == [True, True, False, True]


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_silu_of_large_values(dtype: torch.dtype, sign: int) -> None:
    gates = sign * torch.tensor([[0.0, 20.0, 89.0, 200.0, 6e4]], device=DEVICE)
    x = torch.cat([gates, torch.ones_like(gates)], 1).to(dtype)
    torch.testing.assert_close(swiglu(x), gates.clamp_min(0).to(dtype), rtol=1e-5, atol=1e-6)


def test_plain_paths_agree(plain_process: Callable[[str], str]) -> None:
    plain_process(f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
from endcap_kernels import *
from endcap_kernels import recorded_launches
from ragged_inputs import normal, offsets_of
from references import *
x, gamma, residual, heads = normal(5, 40), normal(40, seed=1), normal(5, 40, seed=2), normal(3, 40, seed=3)
counts, offsets = torch.tensor([3, 2, 0, 1, 3]), offsets_of([2, 3])
qkv, positions = normal(5, 3, 8), torch.arange(5)
table = rotary_table({ROPE}, 8, torch.device("cpu"))
rotated = qkv.clone()
with recorded_launches() as launched:
    rotate(rotated, 2, positions, table)
    logits = candidate_logits(x, residual, gamma, heads, counts).nan_to_num(7)
    alone = add_rms_norm(x, gamma).normed
    results = [*add_rms_norm(x, gamma, residual), alone, swiglu(x), logits, rotated]
    pooled = [pool_normalise(x, offsets), pool_normalise(x, offsets, mean=False)]
assert launched == []
wanted = reference_candidate_logits(x, residual, gamma, heads, counts).nan_to_num(7)
expected = [*reference_add_rms_norm(x, gamma, residual), reference_add_rms_norm(x, gamma)[1], reference_swiglu(x),
            wanted, reference_rotate(qkv, 2, positions, table)]
torch.testing.assert_close(results, expected, rtol=1e-5, atol=1e-4)
pooled_expected = [reference_pool_normalise(x, offsets), reference_pool_normalise(x, offsets, mean=False)]
torch.testing.assert_close(pooled, pooled_expected, rtol=1e-5, atol=1e-5)
""")


def test_kinds_of_rotary_embeddings() -> None:
    device = torch.device(DEVICE)
    plain = rotary_table(ROPE, 8, device)
    assert torch.equal(rotary_table({"rope_parameters": ROPE, "max_position_embeddings": 40}, 8, device), plain)
    scaled = rotary_table({**ROPE, "rope_scaling": {"type": "linear", "factor": 2.0}}, 8, device)
    torch.testing.assert_close(scaled[::2], plain[:20])
    with pytest.raises(ValueError, match="rope_type: expected default, linear or llama3, got 'yarn'"):
        rotary_table({**ROPE, "rope_scaling": {"rope_type": "yarn"}}, 8, device)


def test_nothing() -> None:
    x, gamma, residual = rows(0, 32)
    assert add_rms_norm(x, gamma, residual).normed.shape == (0, 32)
    assert swiglu(x).shape == (0, 16)
    heads, none = normal(3, 32), torch.zeros(0, dtype=torch.int32, device=DEVICE)
    assert candidate_logits(x, residual, gamma, heads, none).shape == (0, 3)
    rotate(x.view(0, 1, 32), 1, none, rotary_table(ROPE, 32, x.device))


def test_custom_op_contracts() -> None:
    x, gamma, residual = rows(3, 32)
    counts = torch.tensor([1, 0, 1], device=DEVICE)
    for operation, arguments in (
        (_add_rms_norm, (x, gamma, residual, 1e-6)),
        (_add_rms_norm, (x, gamma, None, 1e-6)),
        (_swiglu, (x,)),
        (_rotate, (x.view(3, 1, 32), 1, counts, rotary_table(ROPE, 32, x.device))),
        (_candidate_logits, (x, residual, gamma, gamma[None], counts, 1e-6)),
    ):
        torch.library.opcheck(operation, arguments, test_utils=("test_schema", "test_faketensor"))


def test_wrong_input() -> None:
    x, gamma, residual = rows(4, 32)
    counts, table = torch.zeros(4, device=DEVICE).int(), rotary_table(ROPE, 32, x.device)
    with pytest.raises(ValueError, match=r"residual: expected shape \[4, 32\], got \[3, 32\]"):
        add_rms_norm(x, gamma, residual[:3])
    with pytest.raises(ValueError, match="x: expected gates and values side by side, got 31 columns"):
        swiglu(x[:, :31])
    with pytest.raises(ValueError, match=r"counts: expected shape \[4\], got \[3\]"):
        candidate_logits(x, residual, gamma, x, counts[:3])
    with pytest.raises(ValueError, match=r"heads: expected 0\.\.1, got 2"):
        rotate(x.view(4, 1, 32), 2, counts, table)
    with pytest.raises(ValueError, match=r"table: expected shape \[longest, 32\], got \[40, 16\]"):
        rotate(x.view(4, 1, 32), 1, counts, table[:, :16])
    with pytest.raises(ValueError, match="contiguous rows"):
        rotate(x.view(4, 1, 32)[:, :, ::2], 1, counts, table[:, :16])
