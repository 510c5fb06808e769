"""A BERT-class cross-encoder on flat tokens: no padding, fused kernels between the matrix products of cuBLAS.

A request transfers the tokens of its queries and the numbers of its products; pairs are joined on the device. On a GPU,
the whole pass, from ids to scores, is one CUDA graph.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from endcap_kernels.add_layer_norm import add_layer_norm
from endcap_kernels.bert_checkpoint import BertLayer, BertWeights, bert_weights, read_checkpoint
from endcap_kernels.checks import FLOATS, INTEGERS, check_offsets, check_tensor
from endcap_kernels.embed_layer_norm import embed_layer_norm
from endcap_kernels.gelu_bias import gelu_bias
from endcap_kernels.margin_scores import margin_scores
from endcap_kernels.packed_attention import packed_attention
from endcap_kernels.pair_batches import Array, ProductTokens, joined_on_device, lay_out, pair_lengths
from endcap_kernels.token_graphs import TokenGraphs, pair_bucket, usual_buckets


def packed_positions(offsets: Tensor, tokens: int) -> Tensor:
    """Position of each token in its sequence: type of ``offsets`` [tokens]; does not wait for a GPU."""
    token = torch.arange(tokens, dtype=offsets.dtype, device=offsets.device)
    sequence = torch.searchsorted(offsets, token, right=True) - 1
    return token - offsets[sequence]


class PackedCrossEncoder:
    """Scores pairs of texts. Not re-entrant: one thread calls it."""

    def __init__(self, weights: BertWeights) -> None:
        """Use these weights, on their device and in their type."""
        self.weights = weights
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
        device, dtype = _placed(device, dtype)
        return cls(read_checkpoint(checkpoint, device, dtype))

    @classmethod
    def from_model(
        cls, model: Any, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "PackedCrossEncoder":
        """Use the weights of a loaded ``BertModel`` or ``BertForSequenceClassification``; see `from_pretrained`."""
        device, dtype = _placed(device, dtype)
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
        positions = self._checked_positions(ids, types, offsets)
        return self._encode(ids, types, positions, offsets, first_only=False)

    @torch.no_grad()
    def score(self, ids: Tensor, types: Tensor, offsets: Tensor) -> Tensor:
        """Scores of packed sequences, float32 [N]; NaN for an empty one. Arguments as in `hidden_states`."""
        positions = self._checked_positions(ids, types, offsets)
        return self._scores(ids, types, positions, offsets)

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
        self._graphs = TokenGraphs(self._score_block, self.device) if self.device.type == "cuda" else None

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
        if self._graphs is None:
            return 0
        for pairs, tokens in usual_buckets(most_tokens):
            self._graphs.prepare(pairs, tokens)
        return len(self._graphs)

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
        """Score pairs of queries and loaded products in one pass.

        Args:
            queries: tokens of each query, with [CLS] at the start and [SEP] at the end, int [any].
            query: number of each pair's query, int [n].
            product: number of each pair's product, int [n].

        Returns:
            float32 [n], on the host.

        Raises:
            ValueError: no products loaded, numbers out of range, or a pair with too many tokens.
        """
        lengths = self.pair_lengths(queries, query, product)
        count = len(lengths)
        if not count:
            return torch.zeros(0)
        room = pair_bucket(count) if self._graphs is not None else count
        batch = lay_out(queries, np.asarray(query), np.asarray(product), lengths, room)
        block = torch.from_numpy(batch.block)
        if self._graphs is None:
            return self._score_block(block.to(self.device), room, batch.tokens)[:count].cpu()
        return self._graphs.run(block.pin_memory(), room, batch.tokens)[:count].cpu()

    def _score_block(self, block: Tensor, pairs: int, tokens: int) -> Tensor:
        assert self._products is not None  # load_products has been called
        joined, offsets = joined_on_device(block, pairs, self._products, self._separator, tokens)
        return self._scores(joined.ids, joined.types, joined.positions, offsets)

    def _scores(self, ids: Tensor, types: Tensor, positions: Tensor, offsets: Tensor) -> Tensor:
        weights = self.weights
        if weights.pooler is None or weights.pooler_bias is None or weights.score is None or weights.score_bias is None:
            raise ValueError("checkpoint: expected a pooler and a classifier to score with, got an encoder alone")
        if len(weights.score) != 1:
            raise ValueError(f"checkpoint: expected one label to score with, got {len(weights.score)}")
        states = self._encode(ids, types, positions, offsets, first_only=True)
        each = torch.arange(len(states) + 1, dtype=torch.int32, device=self.device)
        head = (weights.pooler, weights.pooler_bias, weights.score[0], weights.score_bias)
        scores = margin_scores(states, each, *head)
        return scores.masked_fill(offsets[1:] == offsets[:-1], torch.nan)

    def _encode(self, ids: Tensor, types: Tensor, positions: Tensor, offsets: Tensor, first_only: bool) -> Tensor:
        """Hidden states of all tokens, or only of the first token of each sequence.

        In the latter case, keys and values of the last layer still come from all tokens, but its output matrices, three
        quarters of a layer's work, are computed for one token per sequence.
        """
        weights, tables = self.weights, (self.weights.words, self.weights.types, self.weights.positions)
        first = offsets[:-1].clamp(max=max(len(ids) - 1, 0)).long() if first_only else None
        if not len(ids):
            return weights.words.new_zeros(0 if first is None else len(first), weights.hidden_size)
        hidden = embed_layer_norm(ids, types, positions, *tables, weights.gamma, weights.beta, weights.eps)
        for number, layer in enumerate(weights.layers):
            last = number == len(weights.layers) - 1
            hidden = self._layer(layer, hidden, offsets, first if last else None)
        return hidden

    def _layer(self, layer: BertLayer, hidden: Tensor, offsets: Tensor, first: Tensor | None) -> Tensor:
        heads, eps = self.weights.heads, self.weights.eps
        qkv = linear(hidden, layer.qkv, layer.qkv_bias).view(len(hidden), 3, heads, -1)
        attended = packed_attention(qkv, offsets)
        if first is not None:
            attended, hidden = attended[first], hidden[first]
        attended = linear(attended, layer.attention)
        norm = (layer.attention_gamma, layer.attention_beta, layer.attention_bias, eps)
        hidden = add_layer_norm(attended, hidden, *norm)
        inner = gelu_bias(linear(hidden, layer.up), layer.up_bias)
        norm = (layer.output_gamma, layer.output_beta, layer.down_bias, eps)
        return add_layer_norm(linear(inner, layer.down), hidden, *norm)

    def _checked_positions(self, ids: Tensor, types: Tensor, offsets: Tensor) -> Tensor:
        check_tensor("ids", ids, ["tokens"], INTEGERS, self.device)
        check_tensor("types", types, [len(ids)], [ids.dtype], self.device)
        check_offsets(offsets, len(ids), self.device)
        if self.device.type == "cpu" and len(offsets) > 1:
            longest = int((offsets[1:] - offsets[:-1]).max())
            if longest > self.weights.longest:
                raise ValueError(f"offsets: expected sequences of at most {self.weights.longest} tokens, got {longest}")
        return packed_positions(offsets, len(ids)).to(ids.dtype)


def _placed(device: str | torch.device | None, dtype: torch.dtype | None) -> tuple[torch.device, torch.dtype]:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    if dtype not in FLOATS:
        raise ValueError(f"dtype: expected float32, bfloat16 or float16, got {dtype}")
    return device, dtype
