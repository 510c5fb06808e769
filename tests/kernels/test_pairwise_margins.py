import math
from itertools import pairwise

import pytest
import torch
from endcap_kernels import pairwise_margins, recorded_launches
from endcap_kernels.pairwise_margins import _pairwise_margins, _pairwise_margins_plain
from hypothesis import given, settings
from hypothesis import strategies as st
from ragged_inputs import DEVICE, SIZES, normal, offsets_of
from torch import Tensor


def reference_pairwise_margins(
    scores: Tensor, offsets: Tensor, temperature: float, longest: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Plain PyTorch on a padded [G, longest] matrix, for scores without NaN: sort, then all pairs."""
    sizes = offsets[1:] - offsets[:-1]
    column = torch.arange(longest, device=scores.device)
    exists = column < sizes[:, None]
    row = torch.where(exists, offsets[:-1, None] + column, 0).long()
    padded = torch.where(exists, scores[row].float(), -torch.inf)
    difference = torch.where(padded[:, :, None] == padded[:, None, :], 0.0, padded[:, :, None] - padded[:, None, :])
    wins = (torch.sigmoid(difference / temperature) * exists[:, None, :]).sum(2)
    ranked, order = padded.sort(dim=1, descending=True, stable=True)
    following = torch.cat([ranked[:, 1:], ranked.new_full((len(ranked), 1), torch.nan)], 1)
    has_next = column + 1 < sizes[:, None]
    gap = torch.where(ranked == following, 0.0, ranked - following)
    to_next = torch.empty_like(padded).scatter_(1, order, torch.where(has_next, gap, torch.nan))
    to_best = torch.where(padded == ranked[:, :1], 0.0, padded - ranked[:, :1])
    places = (offsets[:-1, None] + order).long()
    # Not a mask of bools: PyTorch would wait for the GPU to count them.
    token = torch.arange(len(scores), device=scores.device)
    group = torch.searchsorted(offsets, token, right=True) - 1
    at = (group, token - offsets[group])
    return to_next[at], to_best[at], wins[at], places[at]


def check(scores: Tensor, sizes: list[int], temperature: float = 0.7, dtype: torch.dtype = torch.int32) -> None:
    offsets = offsets_of(sizes, dtype)
    with recorded_launches() as launched:
        result = pairwise_margins(scores, offsets, temperature)
    assert launched == (["_pairwise_margins_kernel"] if sum(sizes) else [])
    expected = reference_pairwise_margins(scores, offsets, temperature, max(sizes))
    for name, value, wanted in zip(result._fields, result, expected, strict=True):
        torch.testing.assert_close(
            value, wanted, rtol=1e-5, atol=1e-5, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_equals_the_reference(sizes: list[int], dtype: torch.dtype) -> None:
    check(normal(sum(sizes), scale=3), sizes, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_have_ties_and_are_compared_in_float32(dtype: torch.dtype) -> None:
    check(normal(150, dtype=dtype), [100, 50])


def test_one_giant_group() -> None:
    check(normal(1023), [1023])


def test_all_equal() -> None:
    result = pairwise_margins(torch.full((70,), 2.5, device=DEVICE), offsets_of([70]))
    assert torch.equal(result.order, torch.arange(70, device=DEVICE))
    assert torch.equal(result.wins, torch.full((70,), 35.0, device=DEVICE))
    assert float(result.to_next[:69].abs().max()) == float(result.to_best.abs().max()) == 0
    assert math.isnan(result.to_next[69])


def test_nan_is_no_candidate_and_infinity_is() -> None:
    nan, inf = math.nan, math.inf
    scores = torch.tensor([1.0, nan, inf, -inf, inf, nan, 2.0], device=DEVICE)
    result = pairwise_margins(scores, offsets_of([7]))
    assert result.order.tolist() == [2, 4, 6, 0, 3, 1, 5]
    assert result.to_best.tolist()[2::2] == [0, 0, -inf]
    assert result.to_next[torch.tensor([0, 2, 4, 6])].tolist() == [inf, 0, inf, 1]
    assert result.to_next[[1, 3, 5]].isnan().all()
    wins = [1.5 + 1 / (1 + math.e), 4.0, 0.5, 4.0, 1.5 + 1 / (1 + math.exp(-1))]
    assert result.wins[[0, 2, 3, 4, 6]].tolist() == pytest.approx(wins)
    assert result.wins[[1, 5]].isnan().all()


def test_not_contiguous() -> None:
    scores = normal(2 * 50)[::2]
    check(scores, [20, 30])


def test_a_group_does_not_depend_on_its_batch_nor_the_run() -> None:
    scores, sizes = normal(230), [3, 90, 130, 7]
    together = pairwise_margins(scores, offsets_of(sizes))
    again = pairwise_margins(scores, offsets_of(sizes))
    alone = pairwise_margins(scores[93:223], offsets_of([130]))
    for part, same, single in zip(together[:3], again[:3], alone[:3], strict=True):
        torch.testing.assert_close(part, same, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(part[93:223], single, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(together.order[93:223], alone.order + 93)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.sampled_from([0.01, 1.0, 50.0]),
    st.randoms(use_true_random=False),
)
def test_properties(sizes: list[int], temperature: float, random: object) -> None:
    levels = [-2.0, -0.5, 0.0, 0.25, 3.0]
    scores = torch.tensor([random.choice(levels) for _ in range(sum(sizes))], device=DEVICE)  # type: ignore[attr-defined]
    offsets = offsets_of(sizes)
    result = pairwise_margins(scores, offsets, temperature)
    assert sorted(result.order.tolist()) == list(range(len(scores)))
    for start, end in pairwise(offsets.tolist()):
        order, size = result.order[start:end], end - start
        assert (scores[order].diff() <= 0).all()
        assert (result.wins[order].diff() <= 1e-4).all()
        # Of every two products one wins; each ties with itself.
        assert float(result.wins[start:end].sum()) == pytest.approx(size * size / 2, rel=1e-4)
        if size:
            gaps = result.to_next[order[:-1]].sum()
            assert float(gaps) == pytest.approx(float(scores[order[0]] - scores[order[-1]]), abs=1e-4)


def test_plain_path_agrees() -> None:
    scores, offsets = normal(90), offsets_of([0, 40, 1, 49])
    scores[[3, 50]] = math.nan
    scores[[4, 60]] = -math.inf
    for kernel, plain in zip(
        pairwise_margins(scores, offsets, 0.5), _pairwise_margins_plain(scores, offsets, 0.5), strict=True
    ):
        torch.testing.assert_close(kernel, plain, equal_nan=True)


def test_custom_op_contract() -> None:
    torch.library.opcheck(
        _pairwise_margins, (normal(9), offsets_of([4, 5]), 1.0), test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": normal(4, 1)}, r"scores: expected shape \[n\], got \[4, 1\]"),
        ({"scores": torch.zeros(4, dtype=torch.int32)}, "scores: expected float32 or bfloat16 or float16, got int32"),
        ({"offsets": torch.zeros(2)}, "offsets: expected int32 or int64, got float32"),
        ({"offsets": torch.zeros(2, dtype=torch.int32, device="meta")}, "offsets: expected device .*, got meta"),
        ({"temperature": 0.0}, "temperature: expected a finite number above 0, got 0"),
        ({"temperature": math.nan}, "temperature: expected a finite number above 0, got nan"),
    ],
)
def test_wrong_input(change: dict[str, object], message: str) -> None:
    arguments = {"scores": normal(4), "offsets": offsets_of([4]), "temperature": 1.0, **change}
    with pytest.raises(ValueError, match=message):
        pairwise_margins(**arguments)  # type: ignore[arg-type]


@pytest.mark.skipif(DEVICE == "cuda", reason="what stands in a tensor on a GPU is not looked at")
@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 3], "offsets: expected to rise from 0 to 4, got 0 to 3"),
        ([0, 3, 1, 4], "offsets: expected to rise, got 3, 1 at 1"),
        ([], "no groups are the offsets"),
    ],
)
def test_wrong_offsets(offsets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pairwise_margins(normal(4), torch.tensor(offsets, dtype=torch.int64))
