"""Joins the tokens of queries and products on the device, so that a request transfers only numbers of products.

Pair n becomes ``[CLS] query [SEP] product [SEP]``. Queries include their special tokens, products do not.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from endcap_kernels.checks import INTEGERS, check_tensor
from endcap_kernels.dispatch import custom_op, launch, runs_kernel

BLOCK = 128


class JoinedPairs(NamedTuple):
    """Packed tokens of pairs; 0 after the last pair."""

    ids: Tensor
    """int32 [tokens]"""
    types: Tensor
    """int32 [tokens]: 0 for the query, 1 for the product."""
    positions: Tensor
    """int32 [tokens], from 0 in each pair."""


def join_pairs(
    queries: Tensor,
    query_offsets: Tensor,
    products: Tensor,
    product_offsets: Tensor,
    query: Tensor,
    product: Tensor,
    offsets: Tensor,
    separator: int,
    tokens: int,
) -> JoinedPairs:
    """Concatenate the tokens of pairs.

    Args:
        queries: tokens of all queries, with [CLS] at the start and [SEP] at the end, int32 or int64 [a].
        query_offsets: first token of each query, and a: int32 or int64 [Q + 1].
        products: tokens of all products, without special tokens, int32 or int64 [b].
        product_offsets: first token of each product, and b: int32 or int64 [P + 1].
        query: query of each pair, int32 or int64 [N].
        product: product of each pair, int32 or int64 [N].
        offsets: first token of each pair, and the end of the last: int32 or int64 [N + 1]. The length of a pair is
            that of its query, plus its product, plus 1; or 0 to omit the pair.
        separator: id of the [SEP] after the product.
        tokens: length of the result, at least ``offsets[-1]``.

    Raises:
        ValueError: wrong shape, type or device.
    """
    device = products.device
    for name, tensor in (("queries", queries), ("products", products), ("query", query)):
        check_tensor(name, tensor, [name[0]], INTEGERS, device)
    for name, tensor in (("query_offsets", query_offsets), ("product_offsets", product_offsets)):
        check_tensor(name, tensor, [f"{name[0].upper()} + 1"], INTEGERS, device)
    check_tensor("product", product, [len(query)], INTEGERS, device)
    check_tensor("offsets", offsets, [len(query) + 1], INTEGERS, device)
    if tokens < 0:
        raise ValueError(f"tokens: expected at least 0, got {tokens}")
    layout = (queries, query_offsets, products, product_offsets, query, product, offsets)
    return JoinedPairs(*_join_pairs(*layout, separator, tokens))


def _empty_results(
    queries: Tensor,
    query_offsets: Tensor,
    products: Tensor,
    product_offsets: Tensor,
    query: Tensor,
    product: Tensor,
    offsets: Tensor,
    separator: int,
    tokens: int,
) -> tuple[Tensor, Tensor, Tensor]:
    ids, types, positions = (products.new_empty(tokens, dtype=torch.int32) for _ in range(3))
    return ids, types, positions


@custom_op("join_pairs", _empty_results)
def _join_pairs(
    queries: Tensor,
    query_offsets: Tensor,
    products: Tensor,
    product_offsets: Tensor,
    query: Tensor,
    product: Tensor,
    offsets: Tensor,
    separator: int,
    tokens: int,
) -> tuple[Tensor, Tensor, Tensor]:
    layout = (queries, query_offsets, products, product_offsets, query, product, offsets)
    results = _empty_results(*layout, separator, tokens)
    if runs_kernel(products):
        launch(
            _join_pairs_kernel,
            (len(query) + 1,),
            products.device,
            *(tensor.contiguous() for tensor in layout),
            *results,
            len(query),
            tokens,
            separator,
            BLOCK=BLOCK,
            num_warps=4,
        )
        return results
    for result in results:
        result.zero_()
    for pair, (start, end) in enumerate(pairwise(offsets.tolist())):
        if start < end:
            head = queries[query_offsets[query[pair]] : query_offsets[query[pair] + 1]]
            body = products[product_offsets[product[pair]] : product_offsets[product[pair] + 1]]
            results[0][start:end] = torch.cat([head, body, head.new_tensor([separator])])
            results[1][start + len(head) : end] = 1
            results[2][start:end] = torch.arange(end - start)
    return results


@triton.jit
def _join_pairs_kernel(
    queries_ptr,  # int [a]
    query_offsets_ptr,  # int [Q + 1]
    products_ptr,  # int [b]
    product_offsets_ptr,  # int [P + 1]
    query_ptr,  # int [pairs]
    product_ptr,  # int [pairs]
    offsets_ptr,  # int [pairs + 1]
    ids_ptr,  # int32 [tokens]
    types_ptr,  # int32 [tokens]
    positions_ptr,  # int32 [tokens]
    pairs,
    tokens,
    separator,
    BLOCK: tl.constexpr,
):
    pair = tl.program_id(0)
    start = tl.load(offsets_ptr + pair).to(tl.int64)
    if pair < pairs:
        length = tl.load(offsets_ptr + pair + 1).to(tl.int64) - start
        if length > 0:
            query = tl.load(query_ptr + pair).to(tl.int64)
            product = tl.load(product_ptr + pair).to(tl.int64)
            query_start = tl.load(query_offsets_ptr + query).to(tl.int64)
            middle = tl.load(query_offsets_ptr + query + 1).to(tl.int64) - query_start
            product_start = tl.load(product_offsets_ptr + product).to(tl.int64)
            for first in range(0, length, BLOCK):
                place = first + tl.arange(0, BLOCK)
                in_query = place < middle
                in_product = (place >= middle) & (place < length - 1)
                left = tl.load(queries_ptr + query_start + place, mask=in_query, other=0).to(tl.int32)
                right = tl.load(products_ptr + product_start + place - middle, mask=in_product, other=0).to(tl.int32)
                token = tl.where(in_query, left, tl.where(in_product, right, separator))
                tl.store(ids_ptr + start + place, token, mask=place < length)
                tl.store(types_ptr + start + place, tl.where(in_query, 0, 1), mask=place < length)
                tl.store(positions_ptr + start + place, place.to(tl.int32), mask=place < length)
    else:
        # The last program clears the rest: embeddings are looked up for unused tokens, too.
        nothing = tl.zeros([BLOCK], tl.int32)
        for rest in range(start, tokens, BLOCK):
            empty = rest + tl.arange(0, BLOCK)
            tl.store(ids_ptr + empty, nothing, mask=empty < tokens)
            tl.store(types_ptr + empty, nothing, mask=empty < tokens)
            tl.store(positions_ptr + empty, nothing, mask=empty < tokens)
