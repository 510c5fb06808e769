"""A BERT-class cross-encoder on flat tokens.

A request transfers the tokens of its queries and the numbers of its products; pairs are joined on the device. On a GPU,
the whole pass, from ids to scores, is one CUDA graph.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from endcap_kernels.bert_checkpoint import BertWeights, bert_weights, read_checkpoint
from endcap_kernels.margin_scores import margin_scores
from endcap_kernels.packed_attention import tile_map
from endcap_kernels.packed_encoder import checked_positions, encode, placed
from endcap_kernels.pair_batches import Array, ProductTokens, block_size, joined_on_device, lay_out, pair_lengths
from endcap_kernels.token_graphs import TokenGraphs, bucket


class PackedCrossEncoder:
    """Scores pairs of texts. Not re-entrant: one thread calls it."""

    def __init__(self, weights: BertWeights, gelu_in_product: bool = False) -> None:
        """Use these weights, on their device and in their type.

        Args:
            weights: model.
            gelu_in_product: see `packed_encoder.feed_forward`; off until a GPU shows a gain without a loss of nDCG.
        """
        self.weights, self._gelu_in_product = weights, gelu_in_product
        self.device, self.dtype = weights.words.device, weights.words.dtype
        self._products: ProductTokens | None = None
        self._separator = 0
        self._graphs: TokenGraphs | None = None

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> "PackedCrossEncoder":
        """Load a Hugging Face checkpoint of a BERT-class model, with or without a classification head.

        Args:
            checkpoint: folder, or name in the cache or the hub.
            device: by default the GPU if there is one.
            dtype: float32, bfloat16 or float16; by default bfloat16 on a GPU, float32 on the CPU.

        Raises:
            ValueError: not a BERT-class model, or another activation, position embedding or head size.
            FileNotFoundError: no checkpoint there.
        """
        device, dtype = placed(device, dtype)
        return cls(read_checkpoint(checkpoint, device, dtype))

    @classmethod
    def from_model(
        cls, model: Any, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "PackedCrossEncoder":
        """Use the weights of a loaded ``BertModel`` or ``BertForSequenceClassification``; see `from_pretrained`."""
        device, dtype = placed(device, dtype)
        return cls(bert_weights(model.config.to_dict(), model.state_dict(), device, dtype))

    @property
    def labels(self) -> int:
        """Outputs of the classification head; 0 without one."""
        return 0 if self.weights.score is None or self.weights.pooler is None else len(self.weights.score)

    @torch.no_grad()
    def hidden_states(self, ids: Tensor, types: Tensor, offsets: Tensor) -> Tensor:
        """Last hidden states of packed sequences: the model's type, [tokens, H].

        Args:
            ids: token ids with special tokens, int32 or int64 [tokens].
            types: token types, type and shape of ``ids``.
            offsets: first token of each sequence, and the number of tokens: int32 or int64 [N + 1].

        Raises:
            ValueError: wrong shape, type or device, or (on the CPU) a sequence that is too long.
        """
        positions = checked_positions(self.weights, ids, types, offsets)
        tiles = tile_map(offsets, len(ids), self.dtype)
        return encode(self.weights, ids, types, positions, offsets, tiles, False, self._gelu_in_product)

    @torch.no_grad()
    def score(self, ids: Tensor, types: Tensor, offsets: Tensor) -> Tensor:
        """Scores of packed sequences, float32 [N]; NaN for an empty one. Arguments as in `hidden_states`."""
        positions = checked_positions(self.weights, ids, types, offsets)
        return self._scores(ids, types, positions, offsets, tile_map(offsets, len(ids), self.dtype))

    def load_products(self, values: Array, offsets: Array, separator: int) -> None:
        """Copy the tokens of all products to the device.

        Args:
            values: tokens of all products without special tokens, int [total].
            offsets: first token of each product, and total: int [products + 1].
            separator: id of [SEP].

        Raises:
            ValueError: offsets that do not fit.
        """
        self._products = ProductTokens(values, offsets, self.device)
        self._separator = separator
        self._graphs = None
        if self.device.type == "cuda":
            self._graphs = TokenGraphs(self._score_block, partial(block_size, dtype=self.dtype), self.device)

    @torch.no_grad()
    def warm_up(self, most_tokens: int) -> int:
        """Capture the CUDA graphs of usual requests with at most ``most_tokens`` tokens, before the first request.

        Returns:
            Number of graphs; 0 on the CPU.

        Raises:
            ValueError: no products loaded.
        """
        if self._products is None:
            raise ValueError("products: expected load_products to have been called, got no products")
        return 0 if self._graphs is None else self._graphs.warm_up(most_tokens)

    def pair_lengths(self, queries: Sequence[Array], query: Array, product: Array) -> Array:
        """Tokens of each pair as `score_products` joins them: int64 [n]; raises ValueError as it does."""
        if self._products is None:
            raise ValueError("products: expected load_products to have been called, got no products")
        lengths = pair_lengths(queries, np.asarray(query), np.asarray(product), self._products)
        if len(lengths) and int(lengths.max()) > self.weights.longest:
            place = int(lengths.argmax())
            raise ValueError(
                f"pair {place}: expected at most {self.weights.longest} tokens, got {lengths[place]} "
                f"(query {query[place]}, product {product[place]}); cut the query or the product"
            )
        return lengths

    @torch.no_grad()
    def score_products(self, queries: Sequence[Array], query: Array, product: Array) -> Tensor:
        """Score pairs of queries and loaded products in one pass; see `start_products`."""
        return self.start_products(queries, query, product)()

    @torch.no_grad()
    def start_products(self, queries: Sequence[Array], query: Array, product: Array) -> Callable[[], Tensor]:
        """Start scoring pairs of queries and loaded products in one pass; on a GPU, nothing is waited for.

        Args:
            queries: tokens of each query, with [CLS] at the start and [SEP] at the end, int [any].
            query: number of each pair's query, int [n].
            product: number of each pair's product, int [n].

        Returns:
            A function that waits for the scores: float32 [n], on the host.

        Raises:
            ValueError: no products loaded, numbers out of range, or a pair with too many tokens.
        """
        lengths = self.pair_lengths(queries, query, product)
        count = len(lengths)
        if not count:
            return lambda: torch.zeros(0)
        total = int(lengths.sum())
        room, tokens = (count, total) if self._graphs is None else bucket(count, total)
        batch = lay_out(queries, np.asarray(query), np.asarray(product), lengths, room, tokens, self.dtype)
        block = torch.from_numpy(batch)
        if self._graphs is None:
            scores = self._score_block(block.to(self.device), room, tokens).cpu()
            return lambda: scores
        wait = self._graphs.start(block.pin_memory(), room, tokens)
        return lambda: wait()[:count]

    def _score_block(self, block: Tensor, pairs: int, tokens: int) -> Tensor:
        assert self._products is not None  # load_products has been called
        joined, offsets, tiles = joined_on_device(block, pairs, self._products, self._separator, tokens, self.dtype)
        return self._scores(joined.ids, joined.types, joined.positions, offsets, tiles)

    def _scores(self, ids: Tensor, types: Tensor, positions: Tensor, offsets: Tensor, tiles: Tensor) -> Tensor:
        weights = self.weights
        if weights.pooler is None or weights.pooler_bias is None or weights.score is None or weights.score_bias is None:
            raise ValueError("checkpoint: expected a pooler and a classifier to score with, got an encoder alone")
        if len(weights.score) != 1:
            raise ValueError(f"checkpoint: expected one label to score with, got {len(weights.score)}")
        states = encode(weights, ids, types, positions, offsets, tiles, True, self._gelu_in_product)
        each = torch.arange(len(states) + 1, dtype=torch.int32, device=self.device)
        head = (weights.pooler, weights.pooler_bias, weights.score[0], weights.score_bias)
        scores = margin_scores(states, each, *head)
        return scores.masked_fill(offsets[1:] == offsets[:-1], torch.nan)
