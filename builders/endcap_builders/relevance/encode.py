"""Pairs as model input.

Encoders read a pair as their tokenizer joins two texts, which the serving engine does, too: a BERT `[CLS] query [SEP]
product [SEP]` with token types 0 and 1, MPNet and XLM-R `<s> query </s></s> product </s>`. Language models read `<s>
query (line break) product </s>`; their head reads the last token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from endcap_builders.relevance.pairs import Pairs, RelevanceError


@dataclass(frozen=True)
class PairFormat:
    """Token ids around the two texts of a pair."""

    begin: tuple[int, ...]
    middle: tuple[int, ...]
    end: tuple[int, ...]
    types: bool
    padding: int

    @classmethod
    def of(cls, tokenizer: Any) -> "PairFormat":
        """The template for the checkpoint of a Hugging Face tokenizer.

        Raises:
            RelevanceError: it has no padding token, or neither a class and a separator token nor an end token.
        """
        padding, name = tokenizer.pad_token_id, tokenizer.name_or_path
        encoder = tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None
        if not encoder and tokenizer.eos_token_id is None:
            raise RelevanceError(
                f"tokenizer {name}: expected a class and a separator token, or an end token, got "
                f"{tokenizer.cls_token!r}, {tokenizer.sep_token!r} and {tokenizer.eos_token!r}; use an encoder "
                "(BERT-like) or a language model checkpoint"
            )
        if encoder:
            if padding is None:
                raise RelevanceError(
                    f"tokenizer {name}: expected a padding token, got none; name it in tokenizer_config.json, e.g. "
                    '"pad_token": "[PAD]"'
                )
            # In a batch, because an empty second text of a single pair counts as none.
            begin, *middle, end = tokenizer([""], [""])["input_ids"][0]
            return cls((begin,), tuple(middle), (end,), "token_type_ids" in tokenizer.model_input_names, padding)
        end = (tokenizer.eos_token_id,)
        begin = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
        middle = tuple(tokenizer("\n", add_special_tokens=False)["input_ids"]) or end
        return cls(begin, middle, end, False, tokenizer.eos_token_id if padding is None else padding)

    @property
    def extra(self) -> int:
        """Number of tokens of a pair besides its texts."""
        return len(self.begin) + len(self.middle) + len(self.end)


class PairEncoder:
    """Turns pairs into padded batches; products are tokenised once, queries once per set of pairs."""

    def __init__(self, tokenizer: Any, values: np.ndarray, offsets: np.ndarray, max_query_tokens: int) -> None:
        """Use tokenised products (from the item store), without special tokens.

        Args:
            tokenizer: tokenizer of the model.
            values: token ids of all products, int32 [total].
            offsets: where each product starts, and the end: int64 [products + 1].
            max_query_tokens: queries are cut here.
        """
        self.format = PairFormat.of(tokenizer)
        self.tokenizer, self.max_query_tokens = tokenizer, max_query_tokens
        self.values, self.offsets = values, offsets

    @classmethod
    def from_texts(
        cls, tokenizer: Any, texts: Sequence[str], *, max_query_tokens: int, max_product_tokens: int
    ) -> "PairEncoder":
        """Tokenise the products, for a model with another vocabulary than the item store."""
        ids = _tokenise(tokenizer, texts, max_product_tokens)
        offsets = np.concatenate([[0], np.cumsum([len(tokens) for tokens in ids])]).astype(np.int64)
        values = np.concatenate([np.empty(0, np.int32), *ids]).astype(np.int32)
        return cls(tokenizer, values, offsets, max_query_tokens)

    def cut(self, max_product_tokens: int) -> "PairEncoder":
        """The same with truncated products; shorter sequences are faster in training and prediction."""
        lengths = np.minimum(np.diff(self.offsets), max_product_tokens)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        kept = np.repeat(self.offsets[:-1] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return PairEncoder(self.tokenizer, self.values[kept], offsets, self.max_query_tokens)

    def encode(self, pairs: Pairs) -> "EncodedPairs":
        """Tokenise the queries of these pairs; empty texts are empty."""
        return EncodedPairs(self, pairs, _tokenise(self.tokenizer, pairs.queries, self.max_query_tokens))


class EncodedPairs:
    """Tokenised pairs; any subset can become a batch."""

    def __init__(self, encoder: PairEncoder, pairs: Pairs, query_tokens: list[np.ndarray]) -> None:
        self.encoder, self.pairs, self.query_tokens = encoder, pairs, query_tokens
        query_lengths = np.array([len(tokens) for tokens in query_tokens], dtype=np.int64)
        product_lengths = np.diff(encoder.offsets)
        texts = query_lengths[pairs.query] + product_lengths[pairs.product] if len(pairs) else query_lengths
        self.lengths = texts + encoder.format.extra

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Model input of the pairs at `indices` (int [b]): int64 [b, longest] each, token types only if used."""
        encoder, form, width = self.encoder, self.encoder.format, int(self.lengths[indices].max())
        ids = np.full((len(indices), width), form.padding, dtype=np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for line, index in enumerate(indices):
            row = self.pairs.product[index]
            product = encoder.values[encoder.offsets[row] : encoder.offsets[row + 1]]
            head = np.concatenate([form.begin, self.query_tokens[self.pairs.query[index]], form.middle])
            end = int(self.lengths[index])
            ids[line, : len(head)], ids[line, len(head) : len(head) + len(product)] = head, product
            ids[line, end - len(form.end) : end] = form.end
            mask[line, :end] = 1
            types[line, len(head) : end] = 1
        tensors = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        return {**tensors, "token_type_ids": torch.from_numpy(types)} if form.types else tensors

    def sorted_batches(self, indices: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """The indices in order of length, split into batches, which need little padding."""
        order = indices[np.argsort(self.lengths[indices], kind="stable")]
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]


def _tokenise(tokenizer: Any, texts: Sequence[str], limit: int) -> list[np.ndarray]:
    if not len(texts):
        return []
    ids = tokenizer(list(texts), add_special_tokens=False, truncation=True, max_length=limit)["input_ids"]
    return [np.asarray(tokens, dtype=np.int32) for tokens in ids]
