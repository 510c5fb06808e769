"""Plain PyTorch that computes what the kernels do, and inputs; for tests, benchmarks and compute-sanitizer.

Needs PyTorch only, so that it runs on a machine without the tests' packages.
"""

import math

import torch
from ragged_inputs import DEVICE, normal
from torch import Tensor
from torch.nn.functional import layer_norm


def reference_gelu_bias(x: Tensor, bias: Tensor) -> Tensor:
    """Plain PyTorch, as in Hugging Face's BERT."""
    return torch.nn.functional.gelu(x + bias)


def reference_add_layer_norm(
    x: Tensor, residual: Tensor, gamma: Tensor, beta: Tensor, bias: Tensor, eps: float = 1e-12
) -> Tensor:
    """Plain PyTorch, as in Hugging Face's BERT."""
    return layer_norm(x + bias + residual, x.shape[1:], gamma, beta, eps)


def reference_embed_layer_norm(
    ids: Tensor,
    types: Tensor,
    positions: Tensor,
    words: Tensor,
    type_table: Tensor,
    position_table: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float = 1e-12,
) -> Tensor:
    """Plain PyTorch, as in Hugging Face's BERT."""
    total = words[ids] + type_table[types] + position_table[positions]
    return layer_norm(total, words.shape[1:], gamma, beta, eps)


def rows_of(tokens: int, size: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    shapes = [(tokens, size), (tokens, size), (size,), (size,), (size,)]
    return [normal(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes)]


def tokens_of(count: int, size: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(9)
    indexes = [torch.randint(0, most, (count,), generator=generator).to(DEVICE) for most in (50, 2, 12)]
    tables = [normal(most, size, seed=most, dtype=dtype) for most in (50, 2, 12)]
    return [*indexes, *tables, normal(size, seed=3, dtype=dtype), normal(size, seed=4, dtype=dtype)]


def reference_add_rms_norm(
    x: Tensor, gamma: Tensor, residual: Tensor | None = None, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Plain PyTorch, as in Hugging Face's Llama."""
    total = x if residual is None else x + residual
    wide = total if total.dtype == torch.float64 else total.float()
    return total, gamma * (wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + eps)).to(x.dtype)


def reference_swiglu(x: Tensor) -> Tensor:
    """Plain PyTorch, as in Hugging Face's Llama."""
    gate, up = x.chunk(2, dim=1)
    return torch.nn.functional.silu(gate) * up


def reference_rotate(qkv: Tensor, heads: int, positions: Tensor, table: Tensor) -> Tensor:
    """Plain PyTorch, as in Hugging Face's Llama; not in place."""
    angle = torch.cat([table[positions]] * 2, 1)[:, None].to(qkv.dtype)
    half = qkv.shape[2] // 2
    cos, sin = torch.cat([angle[..., :half]] * 2, 2), torch.cat([angle[..., half : 2 * half]] * 2, 2)
    turned = torch.cat([-qkv[..., half:], qkv[..., :half]], 2)
    return torch.cat([(qkv * cos + turned * sin)[:, :heads], qkv[:, heads:]], 1)


def reference_candidate_logits(
    x: Tensor, residual: Tensor, gamma: Tensor, heads: Tensor, counts: Tensor, eps: float = 1e-6
) -> Tensor:
    """Plain PyTorch."""
    logits = reference_add_rms_norm(x, gamma, residual, eps)[1] @ heads.T
    return logits.masked_fill(torch.arange(len(heads), device=x.device) >= counts[:, None], torch.nan)


def reference_pool_normalise(hidden: Tensor, offsets: Tensor, mean: bool = True) -> Tensor:
    """Plain PyTorch, on packed states: sums of each sequence by ``index_add``."""
    token = torch.arange(len(hidden), device=hidden.device)
    sequence = torch.searchsorted(offsets, token, right=True) - 1
    first = offsets[sequence] == token
    weight = torch.ones_like(token) if mean else first.long()
    total = hidden.new_zeros(len(offsets) - 1, hidden.shape[1]).index_add(0, sequence, hidden * weight[:, None])
    return torch.nn.functional.normalize(total / (total.new_ones(1) if not mean else (offsets.diff())[:, None]))


def reference_margin_mse_loss(
    scores: Tensor, targets: Tensor, offsets: Tensor, weights: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Plain PyTorch in the closed form: sums of each group by ``index_add``; differentiable by autograd."""
    groups = len(offsets) - 1
    group = torch.searchsorted(offsets, torch.arange(len(scores), device=scores.device), right=True) - 1
    difference = scores - targets
    weight = torch.ones_like(difference) if weights is None else weights

    def summed(values: Tensor) -> Tensor:
        return values.new_zeros(groups).index_add(0, group, values)

    total = summed(weight)
    squares = total * summed(weight * difference**2) - summed(weight * difference) ** 2
    pairs = 0.5 * (total**2 - summed(weight**2))
    error = torch.where(pairs > 0, squares, 0).sum()
    return error / pairs.sum().clamp_min(1e-30) if reduction == "mean" else error


def reference_margin_scores(
    hidden: Tensor,
    offsets: Tensor,
    pooler_weight: Tensor,
    pooler_bias: Tensor,
    score_weight: Tensor,
    score_bias: Tensor,
) -> Tensor:
    """Plain PyTorch, as Hugging Face's BERT computes it, for sequences that are not empty."""
    first = hidden.index_select(0, offsets[:-1])
    pooled = torch.tanh(torch.nn.functional.linear(first, pooler_weight, pooler_bias))
    return torch.nn.functional.linear(pooled, score_weight[None], score_bias)[:, 0]


def weights_of(size: int, dtype: torch.dtype = torch.float32, seed: int = 10) -> tuple[Tensor, ...]:
    shapes = ((size, size), (size,), (size,), (1,))
    return tuple(normal(*shape, seed=seed + place, dtype=dtype, scale=size**-0.5) for place, shape in enumerate(shapes))


def reference_fuse_top_k(
    relevance: Tensor,
    ranker: Tensor,
    boosts: Tensor,
    mask: Tensor,
    weights: Tensor,
    k: Tensor,
    offsets: Tensor,
    longest: int,
    max_k: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Plain PyTorch: fuse all products, then a stable sort of a padded [G, longest] matrix."""
    group = torch.searchsorted(offsets, torch.arange(len(relevance), device=offsets.device), right=True) - 1
    signals = torch.stack([relevance, ranker], 1).float()
    used = weights[group] * ~signals.isnan()
    score = boosts * torch.where(used > 0, used * signals, 0).sum(1) / used.sum(1)
    fused = torch.where(mask & (used.sum(1) > 0), score, torch.nan)
    column = torch.arange(longest, device=offsets.device)
    exists = column < (offsets[1:] - offsets[:-1])[:, None]
    row = torch.where(exists, offsets[:-1, None] + column, 0).long()
    padded = torch.where(exists & ~fused[row].isnan(), fused[row], -torch.inf)
    ranked, order = padded.sort(dim=1, descending=True, stable=True)
    top_score, top = ranked[:, :max_k], torch.gather(row, 1, order)[:, :max_k]
    missing = max_k - top.shape[1]
    if missing > 0:
        top_score = torch.nn.functional.pad(top_score, (0, missing), value=-torch.inf)
        top = torch.nn.functional.pad(top, (0, missing))
    keep = (torch.arange(max_k, device=k.device) < k[:, None]) & (top_score > -torch.inf)
    return fused, torch.where(keep, top, -1), torch.where(keep, top_score, torch.nan)


def reference_packed_attention(qkv: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """Plain PyTorch: pad to [N, longest], mask, softmax, and pack again."""
    heads, size = qkv.shape[2:]
    column = torch.arange(longest, device=qkv.device)
    exists = column < (offsets[1:] - offsets[:-1])[:, None]
    row = torch.where(exists, offsets[:-1, None] + column, 0).long()
    query, key, value = qkv[row].permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) / math.sqrt(size)
    weights = scores.masked_fill(~exists[:, None, None, :], -torch.inf).softmax(-1)
    attended = (weights @ value).transpose(1, 2).reshape(len(exists), longest, heads * size)
    # Not a mask of bools: PyTorch would wait for the GPU to count them.
    token = torch.arange(len(qkv), device=qkv.device)
    sequence = torch.searchsorted(offsets, token, right=True) - 1
    return attended[sequence, token - offsets[sequence]]
