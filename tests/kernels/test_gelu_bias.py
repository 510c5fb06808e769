import math

import pytest
import torch
from endcap_kernels import gelu_bias, recorded_launches
from endcap_kernels.gelu_bias import _gelu_bias
from ragged_inputs import DEVICE, normal, relative_error
from references import reference_gelu_bias


@pytest.mark.parametrize(("tokens", "size"), [(1, 1536), (2, 3072), (31, 111), (5, 1023), (17, 2), (9, 384)])
def test_equals_the_reference_in_float32(tokens: int, size: int) -> None:
    x, bias = normal(tokens, size, scale=3), normal(size, seed=1)
    with recorded_launches() as launched:
        result = gelu_bias(x, bias)
    assert launched == ["_gelu_bias_kernel"]
    torch.testing.assert_close(result, reference_gelu_bias(x, bias), rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_no_more_than_plain_torch(dtype: torch.dtype) -> None:
    x, bias = normal(40, 130, dtype=dtype, scale=2), normal(130, seed=1, dtype=dtype)
    expected, plain = reference_gelu_bias(x.double(), bias.double()), reference_gelu_bias(x, bias)
    assert relative_error(gelu_bias(x, bias), expected) < 2 * relative_error(plain, expected)


def test_the_short_formula_is_as_good_as_its_type() -> None:
    x = torch.linspace(-12, 12, 4096, device=DEVICE)[None].half()
    zero = torch.zeros(4096, dtype=torch.float16, device=DEVICE)
    expected = torch.nn.functional.gelu(x.double()).half()
    # At most one unit in the last place of float16, down to its smallest numbers.
    torch.testing.assert_close(gelu_bias(x, zero), expected, rtol=1e-3, atol=2e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_and_infinity(dtype: torch.dtype) -> None:
    x = torch.tensor([[math.nan, math.inf, -math.inf, 0.0, 60.0, -60.0]], dtype=dtype, device=DEVICE)
    result = gelu_bias(x, torch.zeros(6, dtype=dtype, device=DEVICE))[0].tolist()
    assert math.isnan(result[0])
    assert result[1] == math.inf
    assert result[3:] == [0.0, 60.0, 0.0]
    assert result[2] == 0 or math.isnan(result[2])


def test_not_contiguous_and_identical_in_every_run() -> None:
    wide, bias = normal(12, 200), normal(200, seed=1)
    torch.testing.assert_close(gelu_bias(wide[:, :100], bias[:100]), reference_gelu_bias(wide[:, :100], bias[:100]))
    torch.testing.assert_close(gelu_bias(wide[::2, ::2], bias[::2]), reference_gelu_bias(wide[::2, ::2], bias[::2]))
    assert torch.equal(gelu_bias(wide, bias), gelu_bias(wide, bias))
    assert torch.equal(gelu_bias(wide, bias)[7:8], gelu_bias(wide[7:8], bias))


def test_nothing() -> None:
    assert gelu_bias(normal(0, 8), normal(8)).shape == (0, 8)
    assert gelu_bias(normal(3, 0), normal(0)).shape == (3, 0)


def test_custom_op_contract() -> None:
    torch.library.opcheck(_gelu_bias, (normal(3, 32), normal(32)), test_utils=("test_schema", "test_faketensor"))


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match=r"bias: expected shape \[8\], got \[7\]"):
        gelu_bias(normal(3, 8), normal(7))
    with pytest.raises(ValueError, match="x: expected float32 or bfloat16 or float16, got float64"):
        gelu_bias(normal(3, 8).double(), normal(8))
