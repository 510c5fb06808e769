"""A starting point from which a small student copies: two attention heads that already form an induction circuit.

A student has to quote searches, campaigns and candidate keywords word by word. A transformer learns that as a pair of
heads (Olsson et al. 2022, "In-context Learning and Induction Heads"): one in the first layer that looks at the token
before, one in the second that looks for the place where the current token stood before and repeats what followed.
They form late in training, later than a minute on two cores allows, so they are written into the initial weights, and
trained from there like all others (in the spirit of Trockman and Kolter 2023, "Mimetic Initialization").
"""

import math
from typing import Any

import torch
from torch import Tensor

_POSITION_SCORE = 12.0
"""How much higher the first head scores the token before than an unrelated position, roughly, before softmax."""
_MATCH_SCORE = 1.6
_CONSTANT = 4.0
"""Size of the embedding's constant coordinate, in standard deviations of the others."""


@torch.no_grad()
def write_induction_heads(model: Any) -> None:
    """Write the circuit into head 0 of layers 0 and 1 of a fresh Llama (in place).

    Does nothing to a model of one layer, or one whose heads have fewer than 16 dimensions.

    Args:
        model: `LlamaForCausalLM` with its initial weights; hidden size H, head size D.
    """
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    if config.num_hidden_layers < 2 or size < 16:
        return
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    embedding = model.model.embed_tokens.weight
    spread = float(embedding.std())
    # A coordinate that is the same for all tokens: what a head without biases can tell positions by.
    embedding[:, 0] = _CONSTANT * spread
    half = size // 2
    angles = model.model.rotary_emb.inv_freq[:half].float()
    read, back, copy = (_orthonormal(size, config.hidden_size) for _ in range(3))

    # Layer 0: the score of a key d tokens back is sum_i cos((d - 1) angle_i), highest at d = 1; fast angles only.
    fast = angles > 0.05
    strength = math.sqrt(_POSITION_SCORE * math.sqrt(size) / max(1, int(fast.sum()))) / _CONSTANT
    for projection, shift in ((first.q_proj, -angles), (first.k_proj, torch.zeros_like(angles))):
        projection.weight[:size] *= 0.1
        projection.weight[:half, 0] = strength * torch.cos(shift) * fast
        projection.weight[half:size, 0] = strength * torch.sin(shift) * fast
    first.v_proj.weight[:size] = read
    first.o_proj.weight[:, :size] = back.T * (2.0 * spread)

    # Layer 1: keys are what layer 0 wrote (the token before), queries the current token; slow angles, so that a match
    # counts alike from near and far.
    slow = torch.cat([angles < 0.004] * 2)
    rows = torch.nonzero(slow).flatten()
    for projection, source in ((second.q_proj, read), (second.k_proj, back)):
        projection.weight[:size] *= 0.1
        projection.weight[rows] = _MATCH_SCORE * source[: len(rows)]
    second.v_proj.weight[:size] = copy
    second.o_proj.weight[:, :size] = copy.T * (3.0 * spread)


def _orthonormal(rows: int, columns: int) -> Tensor:
    """Random orthonormal rows that do not see the constant coordinate."""
    basis = torch.linalg.qr(torch.randn(columns - 1, rows))[0].T
    return torch.cat([torch.zeros(rows, 1), basis], dim=1)
