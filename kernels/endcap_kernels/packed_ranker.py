"""A listwise ranker: a Llama-class model reads a prompt with numbered candidates once, and the logits of the numbers'
tokens after it order the candidates (FIRST, arXiv 2406.15657). Nothing is decoded.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from endcap_kernels.fuse_top_k import fuse_top_k
from endcap_kernels.llama_checkpoint import LlamaWeights, llama_weights, read_llama
from endcap_kernels.packed_decoder import last_logits
from endcap_kernels.packed_encoder import placed
from endcap_kernels.pair_batches import Array
from endcap_kernels.sequence_batches import SequenceBatch, SequencePasses


class Ranked(NamedTuple):
    """The candidates of each prompt, on the host."""

    order: Array
    """int32 [N, C]: candidates from 0, the best first, of equal ones the earlier; -1 padded."""
    logit: Array
    """float32 [N, C]: of each candidate; NaN padded."""


class PackedRanker:
    """Orders numbered candidates of prompts. Not re-entrant: one thread calls it."""

    def __init__(self, weights: LlamaWeights, numbers: Sequence[int] | Array) -> None:
        """Use these weights, on their device and in their type; see `from_pretrained`."""
        self.weights = weights
        self.device, self.dtype = weights.words.device, weights.words.dtype
        tokens = np.asarray(numbers, np.int64)
        vocabulary = len(weights.words)
        if tokens.ndim != 1 or not len(tokens) or not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
            raise ValueError(f"numbers: expected token ids in 0..{vocabulary - 1}, at least one, got {numbers!r}")
        self.candidates = len(tokens)
        """C, the most candidates of a prompt."""
        self._heads = weights.head[torch.from_numpy(tokens).to(self.device)]
        self._weights = torch.tensor([1.0, 0.0], device=self.device)
        self._passes = SequencePasses(self._forward, vocabulary, weights.longest, self.device, self.dtype)

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path,
        numbers: Sequence[int] | Array,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> "PackedRanker":
        """Load a Hugging Face checkpoint of a Llama-class model.

        Args:
            checkpoint: folder, or name in the cache or the hub.
            numbers: token id that stands for each candidate, in the order of the candidates.
            device: by default the GPU if there is one.
            dtype: float32, bfloat16 or float16; by default bfloat16 on a GPU, float32 on the CPU.

        Raises:
            ValueError: not a Llama-class model, or another activation, rotary embedding or head size.
            FileNotFoundError: no checkpoint there.
        """
        return cls(read_llama(checkpoint, *placed(device, dtype)), numbers)

    @classmethod
    def from_model(
        cls,
        model: Any,
        numbers: Sequence[int] | Array,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> "PackedRanker":
        """Use the weights of a loaded causal language model; see `from_pretrained`."""
        return cls(llama_weights(model.config.to_dict(), model.state_dict(), *placed(device, dtype)), numbers)

    @torch.no_grad()
    def warm_up(self, most_tokens: int) -> int:
        """Capture the CUDA graphs of requests with at most ``most_tokens`` tokens; returns their number."""
        return self._passes.warm_up(most_tokens)

    def rank(self, prompts: Sequence[Array], counts: Array) -> Ranked:
        """Order the candidates of prompts in one pass; see `start`."""
        return self.start(prompts, counts)()

    @torch.no_grad()
    def start(self, prompts: Sequence[Array], counts: Array) -> Callable[[], Ranked]:
        """Start ordering candidates; on a GPU, nothing is waited for.

        Args:
            prompts: token ids of each prompt, int [any], at least one.
            counts: candidates of each prompt, int [N], 0..C.

        Returns:
            A function that waits for the result.

        Raises:
            ValueError: an empty prompt or one that is too long, an unknown token, or a wrong count.
        """
        counts = np.asarray(counts, np.int64)
        if counts.shape != (len(prompts),):
            raise ValueError(f"counts: expected one for each of {len(prompts)} prompts, got {list(counts.shape)}")
        if len(counts) and not 0 <= int(counts.min()) <= int(counts.max()) <= self.candidates:
            wrong = counts[(counts < 0) | (counts > self.candidates)][0]
            raise ValueError(f"counts: expected 0..{self.candidates} candidates, got {wrong}")
        empty = [place for place, prompt in enumerate(prompts) if not len(prompt)]
        if empty:
            raise ValueError(f"prompt {empty[0]}: expected at least one token, got none")
        if not len(prompts):
            shape = (0, self.candidates)
            return lambda: Ranked(np.zeros(shape, np.int32), np.zeros(shape, np.float32))
        wait = self._passes.start(prompts, counts)

        def ranked() -> Ranked:
            result = wait().numpy()
            return Ranked(result[:, 0].copy(), result[:, 1].copy().view(np.float32))

        return ranked

    def _forward(self, batch: SequenceBatch) -> Tensor:
        """Orders, and the bits of logits: int32 [N, 2, C], one tensor, so that one copy brings both to the host."""
        logits = last_logits(self.weights, batch, self._heads)
        count = len(logits)
        starts = torch.arange(count + 1, dtype=torch.int32, device=self.device) * self.candidates
        row = fuse_top_k(logits.flatten(), starts, self.candidates, self._weights).row
        order = torch.where(row < 0, -1, row - starts[:-1, None])
        return torch.stack([order.int(), logits.view(torch.int32)], 1)
