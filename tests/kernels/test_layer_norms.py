import math

import pytest
import torch
from endcap_kernels import add_layer_norm, embed_layer_norm, recorded_launches
from endcap_kernels.add_layer_norm import _add_layer_norm
from endcap_kernels.embed_layer_norm import _embed_layer_norm
from hypothesis import given, settings
from hypothesis import strategies as st
from ragged_inputs import DEVICE, normal, relative_error
from references import reference_add_layer_norm, reference_embed_layer_norm, rows_of, tokens_of


@pytest.mark.parametrize(("tokens", "size"), [(1, 384), (2, 768), (31, 111), (5, 1023), (9, 2), (3, 1)])
def test_equal_the_references_in_float32(tokens: int, size: int) -> None:
    rows, looked_up = rows_of(tokens, size), tokens_of(tokens, size)
    with recorded_launches() as launched:
        added, embedded = add_layer_norm(*rows), embed_layer_norm(*looked_up)
    assert launched == ["_add_layer_norm_kernel", "_embed_layer_norm_kernel"]
    torch.testing.assert_close(added, reference_add_layer_norm(*rows), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embedded, reference_embed_layer_norm(*looked_up), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_no_more_than_plain_torch(dtype: torch.dtype) -> None:
    rows, looked_up = rows_of(20, 96, dtype), tokens_of(20, 96, dtype)
    for kernel, reference, arguments in (
        (add_layer_norm, reference_add_layer_norm, rows),
        (embed_layer_norm, reference_embed_layer_norm, looked_up),
    ):
        wide = [tensor.double() if tensor.is_floating_point() else tensor for tensor in arguments]
        expected = reference(*wide)
        assert relative_error(kernel(*arguments), expected) < 2 * relative_error(reference(*arguments), expected)


def test_bias_is_optional_and_rows_may_be_strided() -> None:
    x, residual, gamma, beta, _ = rows_of(7, 2 * 40)
    halves = [x[:, :40], residual[:, 40:], gamma[:40], beta[:40]]
    expected = reference_add_layer_norm(*halves, torch.zeros(40, device=DEVICE))
    torch.testing.assert_close(add_layer_norm(*halves), expected, rtol=1e-4, atol=1e-5)
    spread = [x[:, ::2], residual[:, ::2], gamma[::2], beta[::2]]
    expected = reference_add_layer_norm(*spread, torch.zeros(40, device=DEVICE))
    torch.testing.assert_close(add_layer_norm(*spread), expected, rtol=1e-4, atol=1e-5)


def test_a_row_does_not_depend_on_the_others_nor_the_run() -> None:
    rows = rows_of(37, 48)
    together = add_layer_norm(*rows)
    assert torch.equal(together, add_layer_norm(*rows))
    assert torch.equal(together[30:31], add_layer_norm(rows[0][30:31], rows[1][30:31], *rows[2:]))
    looked_up = tokens_of(37, 48)
    alone = [tensor[30:31] if place < 3 else tensor for place, tensor in enumerate(looked_up)]
    assert torch.equal(embed_layer_norm(*looked_up)[30:31], embed_layer_norm(*alone))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_stay_in_their_row(bad: float) -> None:
    rows = rows_of(4, 32)
    rows[0][2, 5] = bad
    assert add_layer_norm(*rows).isnan().any(1).tolist() == [False, False, True, False]


def test_all_equal_rows_become_the_shift() -> None:
    flat, vector = torch.full((3, 64), 7.0, device=DEVICE), normal(64)
    torch.testing.assert_close(add_layer_norm(flat, flat, vector, vector), vector.expand(3, 64))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("wrong", [-1, 50])
def test_a_token_that_no_table_has_is_nan(place: int, wrong: int) -> None:
    looked_up = tokens_of(5, 32)
    looked_up[place][3] = wrong
    assert embed_layer_norm(*looked_up).isnan().all(1).tolist() == [False, False, False, True, False]


def test_no_tokens() -> None:
    assert add_layer_norm(*rows_of(0, 32)).shape == (0, 32)
    assert embed_layer_norm(*tokens_of(0, 32)).shape == (0, 32)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 40), st.integers(2, 70), st.floats(-100, 100), st.floats(0.5, 20))
def test_only_the_shape_of_a_row_matters(tokens: int, size: int, shift: float, scale: float) -> None:
    x, residual, gamma, beta, bias = rows_of(tokens, size)
    first = add_layer_norm(x, residual, gamma, beta, bias, eps=1e-9)
    second = add_layer_norm(scale * x + shift, scale * residual, gamma, beta, scale * bias, eps=1e-9)
    torch.testing.assert_close(first, second, rtol=1e-2, atol=1e-2 * (1 + abs(shift) / scale / 10))


def test_plain_path_agrees(plain_process) -> None:
    x, looked_up = rows_of(9, 40), tokens_of(9, 40)
    looked_up[0][4] = 99
    expected = (add_layer_norm(*x), embed_layer_norm(*looked_up))
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tensors.pt"
        torch.save(([t.cpu() for t in x], [t.cpu() for t in looked_up], [t.cpu() for t in expected]), path)
        plain_process(f"""
import torch
from endcap_kernels import add_layer_norm, embed_layer_norm, recorded_launches
rows, looked_up, (added, embedded) = torch.load({str(path)!r})
with recorded_launches() as launched:
    torch.testing.assert_close(add_layer_norm(*rows), added, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embed_layer_norm(*looked_up), embedded, rtol=1e-4, atol=1e-5, equal_nan=True)
assert launched == []
""")


def test_custom_op_contracts() -> None:
    for operation, arguments in ((_add_layer_norm, rows_of(3, 32)), (_embed_layer_norm, tokens_of(3, 32))):
        torch.library.opcheck(operation, (*arguments, 1e-12), test_utils=("test_schema", "test_faketensor"))


def test_wrong_input() -> None:
    rows, looked_up = rows_of(4, 32), tokens_of(4, 32)
    with pytest.raises(ValueError, match=r"residual: expected shape \[4, 32\], got \[3, 32\]"):
        add_layer_norm(rows[0], rows[1][:3], *rows[2:])
    with pytest.raises(ValueError, match="bias: expected float32, got bfloat16"):
        add_layer_norm(*rows[:4], rows[4].bfloat16())
    with pytest.raises(ValueError, match=r"x: expected H in 1\.\.8192, got 8193"):
        add_layer_norm(*[torch.zeros(1, 8193, device=DEVICE)] * 2, *rows[2:])
    with pytest.raises(ValueError, match="ids: expected int32 or int64, got float32"):
        embed_layer_norm(looked_up[0].float(), *looked_up[1:])
    with pytest.raises(ValueError, match=r"types: expected shape \[4\], got \[3\]"):
        embed_layer_norm(looked_up[0], looked_up[1][:3], *looked_up[2:])
    with pytest.raises(ValueError, match="eps: expected a finite number above 0, got 0"):
        embed_layer_norm(*looked_up, eps=0)
