"""The transfer of a scoring request to the device: one int32 block with numbers of queries and products, and tokens.

Everything in the block has a fixed distance from its start, as a CUDA graph requires:

    offsets [pairs + 1] | query [pairs] | product [pairs] | query_offsets [pairs + 1] | tiles [count, 2] | queries [any]

``tiles`` is the map of `packed_attention`: the host knows the lengths, so the device need not look for them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from endcap_kernels.join_pairs import JoinedPairs, join_pairs
from endcap_kernels.packed_attention import tile_count, tile_map

Array = np.ndarray[Any, np.dtype[Any]]


class ProductTokens:
    """Tokens of all products of a shop on the device, and their lengths on the host."""

    def __init__(self, values: Array, offsets: Array, device: torch.device) -> None:
        """Copy the ragged column ``values`` (int [total]), ``offsets`` (int [products + 1]) to ``device``."""
        self.offsets = np.array(offsets, np.int64)
        if self.offsets.ndim != 1 or not len(self.offsets) or int(self.offsets[-1]) != len(values):
            raise ValueError(f"offsets: expected to end with {len(values)}, the number of tokens, got {offsets[-1:]}")
        if (np.diff(self.offsets) < 0).any():
            raise ValueError("offsets: expected to rise, got some that fall")
        self.device_values = torch.from_numpy(np.array(values, np.int32)).to(device)
        self.device_offsets = torch.from_numpy(self.offsets).to(device)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self, product: Array) -> Array:
        """Tokens of some products: int64, shape of ``product``."""
        return self.offsets[product + 1] - self.offsets[product]


def pair_lengths(queries: Sequence[Array], query: Array, product: Array, products: ProductTokens) -> Array:
    """Number of tokens of each pair, with the [SEP] after the product: int64 [n]; raises ValueError."""
    if query.ndim != 1 or query.shape != product.shape:
        raise ValueError(f"query, product: expected one shape [n], got {list(query.shape)}, {list(product.shape)}")
    for name, numbers, count in (("query", query, len(queries)), ("product", product, len(products))):
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < count:
            wrong = numbers[(numbers < 0) | (numbers >= count)][0]
            raise ValueError(f"{name}: expected numbers in 0..{count - 1}, got {wrong}")
    heads = np.array([len(tokens) for tokens in queries], np.int64)
    return heads[query] + products.lengths(product) + 1 if len(query) else np.zeros(0, np.int64)


def block_size(pairs: int, tokens: int, dtype: torch.dtype) -> int:
    """Numbers in the block of a bucket: query tokens are at most all tokens."""
    return 4 * pairs + 2 + 2 * tile_count(tokens, pairs, dtype) + tokens


def lay_out(
    queries: Sequence[Array],
    query: Array,
    product: Array,
    lengths: Array,
    room: int,
    tokens: int,
    dtype: torch.dtype,
) -> Array:
    """The block of some pairs: int32; pairs from ``len(query)`` to ``room`` have no tokens.

    Only queries with pairs are included.

    Args:
        queries: tokens of each query.
        query: query of each pair.
        product: product of each pair.
        lengths: tokens of each pair, from `pair_lengths`.
        room: pairs of the bucket.
        tokens: tokens of the bucket.
        dtype: of the model; attention's tiles depend on it.
    """
    used, local = np.unique(query, return_inverse=True)
    heads = [np.asarray(queries[number], np.int32) for number in used]
    tiles = 2 * tile_count(tokens, room, dtype)
    block = np.zeros(4 * room + 2 + tiles + sum(map(len, heads)), np.int32)
    count, ends = len(query), np.cumsum(lengths)
    block[1 : room + 1] = int(ends[-1]) if count else 0
    block[1 : count + 1] = ends
    block[room + 1 : room + 1 + count] = local
    block[2 * room + 1 : 2 * room + 1 + count] = product
    query_ends = np.cumsum([len(head) for head in heads])
    start = 3 * room + 1
    block[start + 1 : start + 1 + len(heads)] = query_ends
    start += room + 1
    block[start : start + tiles] = tile_map(torch.from_numpy(block[: room + 1]), tokens, dtype).flatten().numpy()
    if heads:
        block[start + tiles :] = np.concatenate(heads)
    return block


def joined_on_device(
    block: Tensor, pairs: int, products: ProductTokens, separator: int, tokens: int, dtype: torch.dtype
) -> tuple[JoinedPairs, Tensor, Tensor]:
    """Packed tokens of a block on the device; the offsets of its pairs, int32 [pairs + 1]; attention's tiles."""
    sizes = [pairs + 1, pairs, pairs, pairs + 1, 2 * tile_count(tokens, pairs, dtype)]
    offsets, query, product, query_offsets, tiles, queries = torch.split(block, [*sizes, len(block) - sum(sizes)])
    values = (queries, query_offsets, products.device_values, products.device_offsets, query, product, offsets)
    return join_pairs(*values, separator, tokens), offsets, tiles.view(-1, 2)
