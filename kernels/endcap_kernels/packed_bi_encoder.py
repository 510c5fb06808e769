"""A BERT-class bi-encoder on flat tokens: texts to unit vectors. On a GPU, a pass from ids to vectors is one graph."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from endcap_kernels.bert_checkpoint import BertWeights, bert_weights, read_checkpoint
from endcap_kernels.packed_encoder import encode, placed
from endcap_kernels.pair_batches import Array
from endcap_kernels.pool_normalise import pool_normalise
from endcap_kernels.sequence_batches import SequenceBatch, SequencePasses

POOLINGS = ("mean", "cls")


class PackedBiEncoder:
    """Encodes texts. Not re-entrant: one thread calls it."""

    def __init__(self, weights: BertWeights, pooling: str = "mean") -> None:
        """Use these weights, on their device and in their type; see `from_pretrained`."""
        if pooling not in POOLINGS:
            raise ValueError(f"pooling: expected {' or '.join(POOLINGS)}, got {pooling!r}")
        self.weights, self._mean = weights, pooling == "mean"
        self.device, self.dtype, self.dimension = weights.words.device, weights.words.dtype, weights.hidden_size
        self._passes = SequencePasses(self._forward, len(weights.words), weights.longest, self.device, self.dtype)

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path,
        pooling: str = "mean",
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> "PackedBiEncoder":
        """Load a Hugging Face checkpoint of a BERT-class model.

        Args:
            checkpoint: folder, or name in the cache or the hub.
            pooling: what a text's vector is made of: the ``mean`` of its states, or the first (``cls``).
            device: by default the GPU if there is one.
            dtype: float32, bfloat16 or float16; by default bfloat16 on a GPU, float32 on the CPU.

        Raises:
            ValueError: not a BERT-class model, or another activation, position embedding, head size or pooling.
            FileNotFoundError: no checkpoint there.
        """
        return cls(read_checkpoint(checkpoint, *placed(device, dtype)), pooling)

    @classmethod
    def from_model(
        cls,
        model: Any,
        pooling: str = "mean",
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> "PackedBiEncoder":
        """Use the weights of a loaded ``BertModel``; see `from_pretrained`."""
        return cls(bert_weights(model.config.to_dict(), model.state_dict(), *placed(device, dtype)), pooling)

    @torch.no_grad()
    def warm_up(self, most_tokens: int) -> int:
        """Capture the CUDA graphs of requests with at most ``most_tokens`` tokens; returns their number."""
        return self._passes.warm_up(most_tokens)

    def encode(self, texts: Sequence[Array]) -> Tensor:
        """Vectors of texts in one pass; see `start`."""
        return self.start(texts)()

    @torch.no_grad()
    def start(self, texts: Sequence[Array]) -> Callable[[], Tensor]:
        """Start encoding; on a GPU, nothing is waited for.

        Args:
            texts: token ids of each text with special tokens, int [any].

        Returns:
            A function that waits for the vectors: float32 [N, H] of unit length, on the host; NaN for an empty text.

        Raises:
            ValueError: a text that is too long, or an unknown token.
        """
        if not len(texts):
            return lambda: torch.zeros(0, self.dimension)
        return self._passes.start(texts)

    def _forward(self, batch: SequenceBatch) -> Tensor:
        types = torch.zeros_like(batch.ids)
        states = encode(self.weights, batch.ids, types, batch.positions, batch.offsets, batch.tiles)
        return pool_normalise(states, batch.offsets, self._mean)
