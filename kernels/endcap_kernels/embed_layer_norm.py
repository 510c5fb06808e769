"""BERT's embeddings of packed tokens: the sum of three look-ups, normalised, in one pass."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from endcap_kernels.checks import FLOATS, INTEGERS, check_positive, check_tensor
from endcap_kernels.dispatch import custom_op, launch, runs_kernel
from endcap_kernels.layer_norms import WIDEST, row_tiles, store_normalised


def embed_layer_norm(
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
    """Return LayerNorm(words[id] + type_table[type] + position_table[position]) of each token, computed in float32.

    Args:
        ids: token ids, int32 or int64 [tokens].
        types: token types, type and shape of ``ids``.
        positions: positions in their sequences, type and shape of ``ids``.
        words: float32, bfloat16 or float16 [vocabulary, H], H at most 8192.
        type_table: type of ``words`` [types, H].
        position_table: type of ``words`` [positions, H].
        gamma: scale, type of ``words`` [H].
        beta: shift, type of ``words`` [H].
        eps: added to the variance; above 0.

    Returns:
        Type of ``words`` [tokens, H]; NaN for a token whose id, type or position is not in its table.

    Raises:
        ValueError: wrong shape, type, device or eps.
    """
    check_tensor("words", words, ["vocabulary", "H"], FLOATS)
    size, dtype, device = words.shape[1], [words.dtype], words.device
    if not 0 < size <= WIDEST:
        raise ValueError(f"words: expected H in 1..{WIDEST}, got {size}")
    check_tensor("ids", ids, ["tokens"], INTEGERS, device)
    check_tensor("types", types, [len(ids)], [ids.dtype], device)
    check_tensor("positions", positions, [len(ids)], [ids.dtype], device)
    check_tensor("type_table", type_table, ["types", size], dtype, device)
    check_tensor("position_table", position_table, ["positions", size], dtype, device)
    check_tensor("gamma", gamma, [size], dtype, device)
    check_tensor("beta", beta, [size], dtype, device)
    tables = (words, type_table, position_table)
    result: Tensor = _embed_layer_norm(ids, types, positions, *tables, gamma, beta, check_positive("eps", eps))
    return result


def _empty_result(
    ids: Tensor,
    types: Tensor,
    positions: Tensor,
    words: Tensor,
    type_table: Tensor,
    position_table: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
) -> Tensor:
    return words.new_empty((ids.shape[0], words.shape[1]))


@custom_op("embed_layer_norm", _empty_result)
def _embed_layer_norm(
    ids: Tensor,
    types: Tensor,
    positions: Tensor,
    words: Tensor,
    type_table: Tensor,
    position_table: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
) -> Tensor:
    if not runs_kernel(words):
        total: Tensor = words.new_zeros((), dtype=torch.float32)
        for index, table in ((ids, words), (types, type_table), (positions, position_table)):
            known = (index >= 0) & (index < len(table))
            total = total + torch.where(known[:, None], table[torch.where(known, index, 0)].float(), torch.nan)
        return torch.nn.functional.layer_norm(total, words.shape[1:], gamma.float(), beta.float(), eps).to(words.dtype)
    result = _empty_result(ids, types, positions, words, type_table, position_table, gamma, beta, eps)
    tables = [table.contiguous() for table in (words, type_table, position_table, gamma, beta)]
    options = row_tiles(words.shape[1])
    launch(
        _embed_layer_norm_kernel,
        (triton.cdiv(len(ids), options["ROWS"]),),
        words.device,
        ids.contiguous(),
        types.contiguous(),
        positions.contiguous(),
        *tables,
        result,
        len(ids),
        len(words),
        len(type_table),
        len(position_table),
        eps,
        SIZE=words.shape[1],
        **options,
    )
    return result


@triton.jit
def _row_of(table_ptr, index_ptr, token, tokens, length, column, SIZE: tl.constexpr):
    """A chunk of rows of a table for some tokens, float32 [ROWS, WIDTH]; NaN for a missing row, 0 where padded."""
    index = tl.load(index_ptr + token, mask=token < tokens, other=0).to(tl.int64)
    known, exists = (index >= 0) & (index < length), (column < SIZE)[None, :]
    place = table_ptr + index[:, None] * SIZE + column[None, :]
    value = tl.load(place, mask=known[:, None] & exists, other=float("nan")).to(tl.float32)
    return tl.where(exists, value, 0.0)


@triton.jit
def _summed(
    ids_ptr,
    types_ptr,
    positions_ptr,
    words_ptr,
    type_table_ptr,
    position_table_ptr,
    token,
    tokens,
    vocabulary,
    type_count,
    position_count,
    column,
    SIZE: tl.constexpr,
):
    """A chunk of the sum of the three embeddings of some tokens, float32 [ROWS, WIDTH]."""
    values = _row_of(words_ptr, ids_ptr, token, tokens, vocabulary, column, SIZE)
    values += _row_of(type_table_ptr, types_ptr, token, tokens, type_count, column, SIZE)
    return values + _row_of(position_table_ptr, positions_ptr, token, tokens, position_count, column, SIZE)


@triton.jit
def _embed_layer_norm_kernel(
    ids_ptr,  # int [tokens]
    types_ptr,  # int [tokens]
    positions_ptr,  # int [tokens]
    words_ptr,  # [vocabulary, SIZE]
    type_table_ptr,  # [type_count, SIZE]
    position_table_ptr,  # [position_count, SIZE]
    gamma_ptr,  # [SIZE]
    beta_ptr,  # [SIZE]
    result_ptr,  # [tokens, SIZE]
    tokens,
    vocabulary,
    type_count,
    position_count,
    eps,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    first = _summed(
        ids_ptr, types_ptr, positions_ptr, words_ptr, type_table_ptr, position_table_ptr,
        token, tokens, vocabulary, type_count, position_count, column, SIZE,
    )  # fmt: skip
    second = first
    third = first
    if CHUNKS == 3:
        second = _summed(
            ids_ptr, types_ptr, positions_ptr, words_ptr, type_table_ptr, position_table_ptr,
            token, tokens, vocabulary, type_count, position_count, WIDTH + column, SIZE,
        )  # fmt: skip
        third = _summed(
            ids_ptr, types_ptr, positions_ptr, words_ptr, type_table_ptr, position_table_ptr,
            token, tokens, vocabulary, type_count, position_count, 2 * WIDTH + column, SIZE,
        )  # fmt: skip
    row = token.to(tl.int64)
    store_normalised(first, second, third, result_ptr, gamma_ptr, beta_ptr, row, tokens, eps, SIZE, CHUNKS, WIDTH)
