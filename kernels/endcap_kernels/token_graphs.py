"""CUDA graphs over buckets of token counts: one launch for the hundred kernels of a forward pass.

A graph computes a fixed number of tokens and pairs; a request uses the smallest bucket that is large enough. Buckets
are a quarter of an octave apart, so at most a fifth of the work is padding.
"""

from collections.abc import Callable

import torch
from torch import Tensor

LEAST_TOKENS, LEAST_PAIRS = 256, 8
_WARM_UPS = 3


def token_bucket(tokens: int) -> int:
    """The smallest of 256, 320, 384, 448, 512, 640, ... that is at least ``tokens``."""
    if tokens <= LEAST_TOKENS:
        return LEAST_TOKENS
    step = 1 << ((tokens - 1).bit_length() - 3)
    return -(-tokens // step) * step


def pair_bucket(pairs: int) -> int:
    """The smallest power of two that is at least 8 and ``pairs``."""
    return 1 << max(pairs - 1, LEAST_PAIRS - 1).bit_length()


def usual_buckets(most_tokens: int) -> list[tuple[int, int]]:
    """Buckets (pairs, tokens) of requests with at most ``most_tokens`` tokens and 24 to 64 tokens per pair."""
    buckets, tokens = [], LEAST_TOKENS
    while tokens <= token_bucket(most_tokens):
        rooms = {pair_bucket(-(-tokens // length)) for length in (24, 40, 64)}
        buckets += [(pairs, tokens) for pairs in sorted(rooms)]
        tokens = token_bucket(tokens + 1)
    return buckets


class TokenGraphs:
    """Captured forward passes of one model on one GPU. Not re-entrant."""

    def __init__(self, forward: Callable[[Tensor, int, int], Tensor], device: torch.device) -> None:
        """``forward(block, pairs, tokens)`` gives scores float32 [pairs] and must not wait for the GPU."""
        self._forward = forward
        self._device = device
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, block: Tensor, pairs: int, tokens: int) -> Tensor:
        """Scores of a block (int32, pinned, on the host) that was laid out for ``pair_bucket`` pairs: float32 [pairs].

        The result is valid until the next run.
        """
        key = (pairs, token_bucket(tokens))
        self.prepare(*key)
        graph, inputs, scores = self._graphs[key]
        inputs[: len(block)].copy_(block, non_blocking=True)
        graph.replay()
        return scores

    def prepare(self, pairs: int, tokens: int) -> None:
        """Capture the graph of a bucket, if it does not exist; this takes the time of several passes."""
        if (pairs, tokens) not in self._graphs:
            self._graphs[pairs, tokens] = self._capture(pairs, tokens)

    def _capture(self, pairs: int, tokens: int) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        # Zeros mean pairs without tokens. Query tokens are at most all tokens; remains of an earlier, larger request
        # are ignored.
        inputs = torch.zeros(4 * pairs + 2 + tokens, dtype=torch.int32, device=self._device)
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):  # compile kernels and let libraries allocate memory before the capture
                self._forward(inputs, pairs, tokens)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            scores = self._forward(inputs, pairs, tokens)
        return graph, inputs, scores
