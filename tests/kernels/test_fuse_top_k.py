import math

import pytest
import torch
from endcap_kernels import fuse_top_k, recorded_launches
from endcap_kernels.fuse_top_k import _empty_results, _fuse_top_k, _fuse_top_k_plain
from hypothesis import given, settings
from hypothesis import strategies as st
from ragged_inputs import DEVICE, SIZES, normal, offsets_of
from references import reference_fuse_top_k
from torch import Tensor


def inputs(sizes: list[int], seed: int = 0) -> dict[str, Tensor]:
    count, groups = sum(sizes), len(sizes)
    generator = torch.Generator().manual_seed(seed)
    ranker = normal(count, seed=seed + 1)
    ranker[torch.rand(count, generator=generator).to(DEVICE) < 0.2] = torch.nan
    return {
        "relevance": normal(count, seed=seed),
        "ranker": ranker,
        "boosts": normal(count, seed=seed + 2).abs(),
        "mask": (torch.rand(count, generator=generator) < 0.8).to(DEVICE),
        "weights": normal(groups, 2, seed=seed + 3).abs(),
        "k": torch.randint(0, 12, (groups,), generator=generator).to(DEVICE),
        "offsets": offsets_of(sizes),
    }


def check(given: dict[str, Tensor], sizes: list[int], max_k: int) -> None:
    with recorded_launches() as launched:
        result = fuse_top_k(**given, max_k=max_k)
    assert launched == ["_fuse_top_k_kernel"]
    expected = reference_fuse_top_k(**given, longest=max(sizes), max_k=max_k)
    torch.testing.assert_close(result.fused, expected[0], rtol=1e-5, atol=1e-6, equal_nan=True)
    assert torch.equal(result.row, expected[1])
    torch.testing.assert_close(result.score, expected[2], rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("max_k", [1, 12, 70])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_equals_the_reference(sizes: list[int], max_k: int) -> None:
    check(inputs(sizes), sizes, max_k)


def test_one_giant_group_and_int64() -> None:
    given = inputs([1023])
    given["offsets"] = given["offsets"].long()
    given["k"] = torch.tensor([1023], device=DEVICE)
    check(given, [1023], 1023)


def test_only_relevance_is_a_plain_top_k() -> None:
    relevance = normal(50, dtype=torch.bfloat16)
    result = fuse_top_k(relevance, offsets_of([50]), 7, torch.tensor([2.0, 0.0], device=DEVICE))
    assert torch.equal(result.fused, relevance.float())
    assert torch.equal(result.row[0], relevance.float().argsort(descending=True, stable=True)[:7])
    assert torch.equal(result.score[0], relevance.float()[result.row[0]])


def test_all_equal_keeps_the_order() -> None:
    result = fuse_top_k(torch.ones(70, device=DEVICE), offsets_of([70]), 66, torch.ones(2, device=DEVICE))
    assert result.row[0].tolist() == list(range(66))


def test_unknown_signals_masks_and_infinity() -> None:
    nan, inf = math.nan, math.inf
    result = fuse_top_k(
        torch.tensor([nan, 1.0, inf, -inf, nan], device=DEVICE),
        offsets_of([5]),
        4,
        torch.tensor([1.0, 3.0], device=DEVICE),
        ranker=torch.tensor([2.0, 5.0, 0.0, 1.0, nan], device=DEVICE),
        mask=torch.tensor([True, True, True, True, True], device=DEVICE),
    )
    assert result.fused[:4].tolist() == [2.0, 4.0, inf, -inf]
    assert math.isnan(result.fused[4])
    assert result.row[0].tolist() == [2, 1, 0, 3]


def test_run_to_run_identical_batch_invariant_and_not_contiguous() -> None:
    given = inputs([40, 100, 9])
    together = fuse_top_k(**given, max_k=10)
    spread = {name: torch.stack([value, value], -1)[..., 0] for name, value in given.items()}
    again = fuse_top_k(**spread, max_k=10)
    alone = fuse_top_k(
        **{name: given[name][40:140] for name in ("relevance", "ranker", "boosts", "mask")},
        weights=given["weights"][1],
        k=given["k"][1:2],
        offsets=offsets_of([100]),
        max_k=10,
    )
    for one, two in zip(together, again, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(together.score[1], alone.score[0], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(torch.where(together.row[1] < 0, -1, together.row[1] - 40), alone.row[0])


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 1000), st.integers(0, 12))
def test_properties(sizes: list[int], seed: int, max_k: int) -> None:
    given = inputs(sizes, seed)
    result = fuse_top_k(**given, max_k=max_k)
    for group, (start, end) in enumerate(zip(given["offsets"][:-1], given["offsets"][1:], strict=True)):
        chosen = result.row[group][result.row[group] >= 0]
        eligible = ~result.fused[start:end].isnan()
        assert len(chosen) == min(int(given["k"][group]), max_k, int(eligible.sum()))
        assert len(chosen.unique()) == len(chosen)
        assert ((chosen >= start) & (chosen < end)).all()
        assert given["mask"][chosen].all()
        left = [row for row in range(start, end) if row not in chosen.tolist() and bool(eligible[row - start])]
        if len(chosen) and left:
            assert float(result.score[group][len(chosen) - 1]) >= float(result.fused[left].max())


def test_plain_path_agrees() -> None:
    given = inputs([30, 0, 71, 2])
    kernel = fuse_top_k(**given, max_k=9)
    order = ("relevance", "offsets", "weights", "ranker", "boosts", "mask", "k")
    plain = _empty_results(*(given[name] for name in order), 9, 9)
    _fuse_top_k_plain(plain, *(given[name] for name in order), 9)
    for one, two in zip(kernel, plain, strict=True):
        torch.testing.assert_close(one, two, equal_nan=True)


def test_custom_op_contract() -> None:
    given = inputs([4, 5])
    arguments = (given["relevance"], given["offsets"], given["weights"], None, None, given["mask"], None, 3, 4)
    torch.library.opcheck(_fuse_top_k, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranker": normal(5)}, r"ranker: expected shape \[4\], got \[5\]"),
        ({"weights": torch.ones(2, 3)}, r"weights: expected shape \[1, 2\], got \[2, 3\]"),
        ({"mask": torch.ones(4)}, "mask: expected bool, got float32"),
        ({"k": torch.ones(1, dtype=torch.int64, device=DEVICE)}, "max_k: expected a number where k is a tensor"),
        ({"k": -1}, "k: expected at least 0, got -1"),
    ],
)
def test_wrong_input(change: dict[str, object], message: str) -> None:
    arguments = {
        "relevance": normal(4),
        "offsets": offsets_of([4]),
        "k": 2,
        "weights": torch.ones(2, device=DEVICE),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        fuse_top_k(**arguments)  # type: ignore[arg-type]
