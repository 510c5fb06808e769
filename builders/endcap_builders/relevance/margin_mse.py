"""The student's loss: margins between the products of one query, plus a small pointwise term for their level.

On a GPU, the margins are computed by a fused kernel of `endcap_kernels` (one pass over the scores instead of about
fifteen small operations), elsewhere by plain PyTorch. Tests compare the two.
"""

from importlib.util import find_spec

import torch
from torch import Tensor


def margin_mse(
    scores: Tensor,
    targets: Tensor,
    groups: Tensor,
    *,
    anchor: float = 0.0,
    weights: Tensor | None = None,
    fused: bool | None = None,
) -> Tensor:
    """Mean squared error of margins over all pairs (i, j), i < j, of products of the same query (arXiv 2505.07105).

    With d = score - target, ((s_i - s_j) - (t_i - t_j))^2 = (d_i - d_j)^2, and with pair weights w_i * w_j the sum over
    i < j of a group is  W * sum(w d^2) - (sum(w d))^2,  W = sum(w): linear in the group's size, while the double loop
    is quadratic. Margins do not determine the level of a group; `anchor` times the pointwise squared error does.

    Args:
        scores: student scores, float [n].
        targets: teacher scores or labels, on the scale of the scores, float [n].
        groups: query of each score, int64 [n], any numbering 0..g-1; need not be sorted.
        anchor: weight of the pointwise term.
        weights: weight of each product, float [n], at least 0; 1 if not given.
        fused: compute the margins with the kernel of `endcap_kernels`; by default where the scores are on a GPU and the
            package is installed.

    Returns:
        Scalar: weighted mean over the pairs of all groups (0 if every group has one product) + anchor * weighted mean
        over the products.

    Raises:
        ValueError: shapes that differ, no scores, or targets that are not finite.
    """
    if scores.ndim != 1 or scores.shape != targets.shape or scores.shape != groups.shape or not len(scores):
        raise ValueError(
            "expected scores, targets and groups of one shape [n], n > 0, got "
            f"{tuple(scores.shape)}, {tuple(targets.shape)}, {tuple(groups.shape)}"
        )
    if not torch.isfinite(targets).all():
        place = int(torch.nonzero(~torch.isfinite(targets))[0])
        raise ValueError(f"expected finite targets, got {float(targets[place])} at {place}; label or drop these pairs")
    scores, targets = scores.float(), targets.float()
    weights = torch.ones_like(scores) if weights is None else weights.float()
    if fused is None:
        fused = scores.is_cuda and find_spec("endcap_kernels") is not None
    loss = (_margins_fused if fused else _margins_plain)(scores, targets, groups, weights)
    if anchor:
        loss = loss + anchor * (weights * (scores - targets) ** 2).sum() / weights.sum().clamp_min(1e-12)
    return loss


def _margins_fused(scores: Tensor, targets: Tensor, groups: Tensor, weights: Tensor) -> Tensor:
    from endcap_kernels import margin_mse_loss

    # The kernel needs contiguous groups.
    order = torch.argsort(groups, stable=True)
    offsets = torch.nn.functional.pad(torch.bincount(groups).cumsum(0), (1, 0))
    return margin_mse_loss(scores[order], targets[order], offsets, weights[order].detach())


def _margins_plain(scores: Tensor, targets: Tensor, groups: Tensor, weights: Tensor) -> Tensor:
    count = int(groups.max()) + 1
    # Centre d first: with a large common offset in a group, the closed form would cancel.
    difference = scores - targets
    weight = _sum(weights, groups, count)
    mean = _sum(weights * difference, groups, count) / weight.clamp_min(1e-12)
    centred = difference - mean.detach()[groups]
    squares = weight * _sum(weights * centred**2, groups, count) - _sum(weights * centred, groups, count) ** 2
    pairs = (weight**2 - _sum(weights**2, groups, count)) / 2
    # Groups of one have no pairs; do not divide their rounding errors by nearly 0.
    return squares[pairs > 0].sum() / pairs.sum().clamp_min(1e-12)


def _sum(values: Tensor, groups: Tensor, count: int) -> Tensor:
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, groups, values)
