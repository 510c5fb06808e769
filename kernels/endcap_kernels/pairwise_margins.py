"""Margins of scores within ragged groups: expected wins of each product against the others of its query.

For product i of a group, with its group's scores s in descending order (ties: the earlier product first):

    to_next_i = s_i - s of the product that follows i      to_best_i = s_i - max s
    wins_i    = sum over j of sigmoid((s_i - s_j) / temperature)

All pairs of a group are compared tile by tile on the chip. The same comparisons give the order, because the rank of a
product is the number of products that beat it. There is no n x n matrix in memory and no sort.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from endcap_kernels.checks import FLOATS, check_offsets, check_positive, check_tensor
from endcap_kernels.dispatch import custom_op, launch, runs_kernel
from endcap_kernels.functions import sigmoid
from endcap_kernels.ragged import find_group, search_steps, slots

BLOCK, OTHERS = 32, 64
"""Products of a program, and products with which they are compared at a time. They are fixed, so that a group's margins
do not depend on the batch, and small enough that several programs share a multiprocessor."""


class PairwiseMargins(NamedTuple):
    """Result of `pairwise_margins`."""

    to_next: Tensor
    """float32 [n], at least 0; NaN for the last product of a group."""
    to_best: Tensor
    """float32 [n], at most 0."""
    wins: Tensor
    """float32 [n]: expected number of wins, including the tie with itself (0.5)."""
    order: Tensor
    """int64 [n]: rows of each group, the best first; group g holds places offsets[g] to offsets[g + 1]."""


def pairwise_margins(scores: Tensor, offsets: Tensor, temperature: float = 1.0) -> PairwiseMargins:
    """Compare every product with all others of its group.

    A product with a NaN score is no candidate: its margins are NaN, it counts in no wins, and it is last in the order.
    Equal infinite scores tie.

    Args:
        scores: float32, bfloat16 or float16 [n].
        offsets: int32 or int64 [G + 1], first row of each group, and n; groups may be empty.
        temperature: difference of scores that means a win probability of 73 %; above 0.

    Raises:
        ValueError: wrong shape, type, device or temperature.
    """
    check_tensor("scores", scores, ["n"], FLOATS)
    check_offsets(offsets, len(scores), scores.device)
    return PairwiseMargins(*_pairwise_margins(scores, offsets, check_positive("temperature", temperature)))


def _empty_results(scores: Tensor, offsets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    margins = [torch.empty(scores.shape, dtype=torch.float32, device=scores.device) for _ in range(3)]
    return margins[0], margins[1], margins[2], torch.empty(scores.shape, dtype=torch.int64, device=scores.device)


@custom_op("pairwise_margins", _empty_results)
def _pairwise_margins(scores: Tensor, offsets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not runs_kernel(scores):
        return _pairwise_margins_plain(scores, offsets, temperature)
    to_next, to_best, wins, order = _empty_results(scores, offsets, temperature)
    rows, groups = len(scores), len(offsets) - 1
    if rows:
        launch(
            _pairwise_margins_kernel,
            (slots(rows, groups, BLOCK),),
            scores.device,
            scores.contiguous(),
            offsets.contiguous(),
            to_next,
            to_best,
            wins,
            order,
            groups,
            temperature,
            BLOCK=BLOCK,
            OTHERS=OTHERS,
            STEPS=search_steps(groups),
            num_warps=4,
        )
    return to_next, to_best, wins, order


@triton.jit
def _pairwise_margins_kernel(
    scores_ptr,  # [n]
    offsets_ptr,  # int [G + 1]
    to_next_ptr,  # float32 [n]
    to_best_ptr,  # float32 [n]
    wins_ptr,  # float32 [n]
    order_ptr,  # int64 [n]
    groups,
    temperature,
    BLOCK: tl.constexpr,
    OTHERS: tl.constexpr,
    STEPS: tl.constexpr,
):
    group, part = find_group(offsets_ptr, tl.program_id(0), groups, BLOCK, STEPS)
    start = tl.load(offsets_ptr + group).to(tl.int64)
    size = (tl.load(offsets_ptr + group + 1).to(tl.int64) - start).to(tl.int32)
    own = part.to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    if part.to(tl.int32) * BLOCK < size:
        score = tl.load(scores_ptr + start + own, mask=own < size, other=0.0).to(tl.float32)
        mine = score[:, None]
        known = mine == mine
        # A Python float would be float64.
        inverse = tl.full([], 1.0, tl.float32) / tl.full([], temperature, tl.float32)
        wins = tl.zeros([BLOCK], tl.float32)
        place = tl.zeros([BLOCK], tl.int32)
        worse = tl.zeros([BLOCK], tl.int32)
        following = tl.full([BLOCK], -float("inf"), tl.float32)
        best = -float("inf") + tl.zeros([], tl.float32)
        for first in range(0, size, OTHERS):
            row = first + tl.arange(0, OTHERS)
            other = tl.load(scores_ptr + start + row, mask=row < size, other=float("nan")).to(tl.float32)
            best = tl.maximum(best, tl.max(tl.where(other == other, other, -float("inf")), axis=0))
            theirs = other[None, :]
            equal = mine == theirs
            earlier = row[None, :] < own[:, None]
            # Equal infinite scores tie; their difference would be NaN.
            win = tl.where(equal, 0.5, sigmoid((mine - theirs) * inverse))
            wins += tl.sum(tl.where(theirs == theirs, win, 0.0), axis=1)
            beats = (theirs > mine) | (equal & earlier)
            beats_unknown = (row < size)[None, :] & ((theirs == theirs) | earlier)
            place += tl.sum(tl.where(known, beats, beats_unknown).to(tl.int32), axis=1)
            loses = (theirs < mine) | (equal & (row[None, :] > own[:, None]))
            worse += tl.sum(loses.to(tl.int32), axis=1)
            following = tl.maximum(following, tl.max(tl.where(loses, theirs, -float("inf")), axis=1))
        nothing = float("nan")
        to_next = tl.where(score == following, 0.0, score - following)
        to_next = tl.where((score == score) & (worse > 0), to_next, nothing)
        to_best = tl.where(score == best, 0.0, score - best)
        tl.store(to_next_ptr + start + own, to_next, mask=own < size)
        tl.store(to_best_ptr + start + own, tl.where(score == score, to_best, nothing), mask=own < size)
        tl.store(wins_ptr + start + own, tl.where(score == score, wins, nothing), mask=own < size)
        tl.store(order_ptr + start + place, start + own, mask=own < size)


def _pairwise_margins_plain(
    scores: Tensor, offsets: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Group by group in PyTorch, for the CPU."""
    results = _empty_results(scores, offsets, temperature)
    values = scores.float()
    bounds = offsets.tolist()
    for start, end in pairwise(bounds):
        group = values[start:end]
        known = ~group.isnan()
        order = group.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).argsort(
            descending=True, stable=True
        )
        order = torch.cat([order[known[order]], order[~known[order]]])  # -inf is a score, NaN is not
        ranked = group[order]
        followed = torch.cat([ranked[1:], ranked.new_full((1,), torch.nan)])
        difference = torch.where(group[:, None] == group, 0.0, group[:, None] - group)
        wins = torch.where(known, torch.sigmoid(difference / temperature), 0.0).sum(1)
        results[0][start:end][order] = torch.where(ranked == followed, 0.0, ranked - followed)
        best = ranked[:1]
        results[1][start:end] = torch.where(group == best, 0.0, group - best)
        results[2][start:end] = torch.where(known, wins, torch.nan)
        results[3][start:end] = order + start
    return results
