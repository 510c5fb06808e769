import math
from itertools import pairwise

import pytest
import torch
from endcap_kernels import causal_attention, packed_attention, recorded_launches
from endcap_kernels.packed_attention import _packed_attention, _packed_attention_plain, tile_map, tile_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from ragged_inputs import normal, offsets_of, relative_error
from references import reference_packed_attention


def check(sizes: list[int], heads: int, size: int, offsets_type: torch.dtype = torch.int32) -> None:
    qkv, offsets = normal(sum(sizes), 3, heads, size, scale=1.5), offsets_of(sizes, offsets_type)
    with recorded_launches() as launched:
        result = packed_attention(qkv, offsets)
    assert launched == ["_packed_attention_kernel"]
    expected = reference_packed_attention(qkv.double(), offsets, max(sizes)).float()
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("sizes", [[1], [2], [31], [111], [3, 0, 65, 1, 0, 64], [0, 40, 20]], ids=str)
def test_equals_the_reference(sizes: list[int], size: int) -> None:
    check(sizes, 2, size)


def test_longest_sequence_and_int64() -> None:
    check([512], 1, 32, torch.int64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [40, 150])
def test_half_precision_errs_no_more_than_plain_torch(length: int, dtype: torch.dtype) -> None:
    qkv, offsets = normal(2 * length, 3, 1, 32, dtype=dtype), offsets_of([length] * 2)
    expected = reference_packed_attention(qkv.double(), offsets, length)
    plain = reference_packed_attention(qkv, offsets, length)
    assert relative_error(packed_attention(qkv, offsets), expected) < 2 * relative_error(plain, expected)


def test_a_sequence_does_not_depend_on_its_batch_nor_the_run() -> None:
    qkv, sizes = normal(130, 3, 1, 32), [7, 90, 33]
    together = packed_attention(qkv, offsets_of(sizes))
    assert torch.equal(together, packed_attention(qkv, offsets_of(sizes)))
    assert torch.equal(together[7:97], packed_attention(qkv[7:97], offsets_of([90])))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_stay_in_their_sequence(bad: float) -> None:
    qkv = normal(20, 3, 1, 32)
    qkv[12] = bad
    result = packed_attention(qkv, offsets_of([10, 10]))
    assert result[:10].isfinite().all()
    assert not result[10:].isfinite().all(1).any()


def test_all_equal_keys_give_the_mean_and_large_scores_do_not_overflow() -> None:
    qkv = torch.ones_like(normal(70, 3, 1, 32)) * 100
    qkv[:, 2] = normal(70, 1, 32)
    result = packed_attention(qkv, offsets_of([70]))
    torch.testing.assert_close(result, qkv[:, 2, 0].mean(0).expand(70, 32), rtol=1e-4, atol=1e-5)


def test_part_of_a_wider_matrix_and_not_contiguous() -> None:
    wide, offsets = normal(30, 5, 2, 32), offsets_of([11, 19])
    expected = packed_attention(wide[:, :3].contiguous(), offsets)
    assert torch.equal(packed_attention(wide[:, :3], offsets), expected)
    assert torch.equal(packed_attention(wide[:, :3].transpose(2, 3).contiguous().transpose(2, 3), offsets), expected)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(0, 100))
def test_results_are_means_of_values(sizes: list[int], seed: int) -> None:
    qkv, offsets = normal(sum(sizes), 3, 1, 32, seed=seed), offsets_of(sizes)
    result = packed_attention(qkv, offsets)
    for start, end in pairwise(offsets.tolist()):
        if start < end:
            value = qkv[start:end, 2, 0]
            assert (result[start:end] <= value.max(0).values + 1e-4).all()
            assert (result[start:end] >= value.min(0).values - 1e-4).all()


def test_plain_path_agrees() -> None:
    qkv, offsets = normal(50, 8, 32), offsets_of([0, 20, 30])
    for heads, kernel in ((4, causal_attention(qkv, 4, offsets)), (6, causal_attention(qkv, 6, offsets))):
        torch.testing.assert_close(kernel, _packed_attention_plain(qkv, heads, offsets, 1.0, causal=True))


def test_custom_op_contract() -> None:
    qkv, offsets = normal(9, 3, 32), offsets_of([4, 5])
    arguments = (qkv, 1, offsets, tile_map(offsets, 9, qkv.dtype), 1.0, False)
    torch.library.opcheck(_packed_attention, arguments, test_utils=("test_schema", "test_faketensor"))


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="qkv: expected a head size D of 32, 64 or 128, got 48"):
        packed_attention(normal(4, 3, 2, 48), offsets_of([4]))
    with pytest.raises(ValueError, match=r"qkv: expected shape \[tokens, 3, heads, D\], got \[4, 192\]"):
        packed_attention(normal(4, 192), offsets_of([4]))
    with pytest.raises(ValueError, match="heads: expected a multiple of the key heads, got 3 of 7 in qkv"):
        causal_attention(normal(4, 7, 32), 3, offsets_of([4]))
    with pytest.raises(ValueError, match=r"tiles: expected shape \[1, 2\], got \[4, 2\]"):
        packed_attention(normal(4, 3, 1, 32), offsets_of([4]), offsets_of([1] * 7).view(4, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [[1], [0, 70, 3], [129]], ids=str)
def test_causal_attention_with_grouped_heads(sizes: list[int], dtype: torch.dtype) -> None:
    qkv, offsets = normal(sum(sizes), 4 + 2 * 2, 32, dtype=dtype, scale=1.5), offsets_of(sizes)
    with recorded_launches() as launched:
        result = causal_attention(qkv, 4, offsets)
    assert launched == ["_packed_attention_kernel"]
    expected = _packed_attention_plain(qkv.double(), 4, offsets, 1.0, causal=True)
    assert relative_error(result, expected) < {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]


def test_the_future_does_not_change_a_token() -> None:
    qkv = normal(80, 6, 32)
    whole, part = causal_attention(qkv, 2, offsets_of([80])), causal_attention(qkv[:66], 2, offsets_of([66]))
    assert torch.equal(whole[:66], part)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 200), max_size=9), st.integers(0, 300))
def test_the_tile_map_has_every_part_once(sizes: list[int], padding: int) -> None:
    tokens, dtype = sum(sizes) + padding, torch.float32
    tiles = tile_map(offsets_of(sizes), tokens, dtype).tolist()
    rows = tile_rows(tokens, len(sizes), dtype)
    expected = [[group, part] for group, size in enumerate(sizes) for part in range(-(-size // rows))]
    assert sorted(tile for tile in tiles if tile[0] >= 0) == expected
