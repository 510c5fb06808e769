"""Pairs as model input: `[CLS] query [SEP] product [SEP]`, token types 0 and 1, as the serving engine builds them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from endcap_builders.relevance.pairs import Pairs, RelevanceError


class PairEncoder:
    """Turns pairs into padded batches; products are tokenised once, queries once per set of pairs."""

    def __init__(self, tokenizer: Any, values: np.ndarray, offsets: np.ndarray, max_query_tokens: int) -> None:
        """Take products that are tokenised already (the item store's), without special tokens.

        Args:
            tokenizer: a Hugging Face tokenizer with a class and a separator token.
            values: token ids of all products, int32 [total].
            offsets: where each product starts, and the end: int64 [products + 1].
            max_query_tokens: queries are cut here.
        """
        if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
            raise RelevanceError(
                f"tokenizer {tokenizer.name_or_path}: expected a class and a separator token, got "
                f"{tokenizer.cls_token!r} and {tokenizer.sep_token!r}; use an encoder (BERT-like) checkpoint"
            )
        self.tokenizer, self.max_query_tokens = tokenizer, max_query_tokens
        self.values, self.offsets = values, offsets

    @classmethod
    def from_texts(
        cls, tokenizer: Any, texts: Sequence[str], *, max_query_tokens: int, max_product_tokens: int
    ) -> "PairEncoder":
        """Tokenise the products here, for a checkpoint whose vocabulary is not that of the item store."""
        ids = _tokenise(tokenizer, texts, max_product_tokens)
        offsets = np.concatenate([[0], np.cumsum([len(tokens) for tokens in ids])]).astype(np.int64)
        values = np.concatenate([np.empty(0, np.int32), *ids]).astype(np.int32)
        return cls(tokenizer, values, offsets, max_query_tokens)

    def encode(self, pairs: Pairs) -> "EncodedPairs":
        """Tokenise the queries of these pairs."""
        return EncodedPairs(self, pairs, _tokenise(self.tokenizer, pairs.queries, self.max_query_tokens))


class EncodedPairs:
    """Pairs of which any subset can be turned into a batch."""

    def __init__(self, encoder: PairEncoder, pairs: Pairs, query_tokens: list[np.ndarray]) -> None:
        self.encoder, self.pairs, self.query_tokens = encoder, pairs, query_tokens
        query_lengths = np.array([len(tokens) for tokens in query_tokens], dtype=np.int64)
        product_lengths = np.diff(encoder.offsets)
        self.lengths = query_lengths[pairs.query] + product_lengths[pairs.product] + 3 if len(pairs) else query_lengths

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Model input of the pairs at `indices` (int [b]): three int64 [b, longest]."""
        encoder, width = self.encoder, int(self.lengths[indices].max())
        ids = np.full((len(indices), width), encoder.tokenizer.pad_token_id or 0, dtype=np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for line, index in enumerate(indices):
            query = self.query_tokens[self.pairs.query[index]]
            row = self.pairs.product[index]
            product = encoder.values[encoder.offsets[row] : encoder.offsets[row + 1]]
            middle, end = len(query) + 2, len(query) + len(product) + 3
            ids[line, 0], ids[line, middle - 1] = encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id
            ids[line, 1 : middle - 1], ids[line, middle : end - 1] = query, product
            ids[line, end - 1] = encoder.tokenizer.sep_token_id
            mask[line, :end] = 1
            types[line, middle:end] = 1
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "token_type_ids": torch.from_numpy(types),
        }

    def sorted_batches(self, indices: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """The indices in order of length, cut into batches: padding costs nothing this way."""
        order = indices[np.argsort(self.lengths[indices], kind="stable")]
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]


def _tokenise(tokenizer: Any, texts: Sequence[str], limit: int) -> list[np.ndarray]:
    if not len(texts):
        return []
    ids = tokenizer(list(texts), add_special_tokens=False, truncation=True, max_length=limit)["input_ids"]
    return [np.asarray(tokens, dtype=np.int32) for tokens in ids]
