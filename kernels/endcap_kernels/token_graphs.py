"""CUDA graphs over buckets of token counts: one launch for the hundred kernels of a forward pass.

A graph computes a fixed number of tokens and pairs; a request runs in the smallest bucket that holds it. Buckets are a
quarter of an octave apart, so at most a fifth of a bucket's work is for nobody.
"""

from collections.abc import Callable

import torch
from torch import Tensor

LEAST_TOKENS, LEAST_PAIRS = 256, 8
_WARM_UPS = 3


def token_bucket(tokens: int) -> int:
    """The least of 256, 320, 384, 448, 512, 640, ... that holds so many tokens."""
    if tokens <= LEAST_TOKENS:
        return LEAST_TOKENS
    step = 1 << ((tokens - 1).bit_length() - 3)
    return -(-tokens // step) * step


def pair_bucket(pairs: int) -> int:
    """The least power of two from 8 that holds so many pairs."""
    return 1 << max(pairs - 1, LEAST_PAIRS - 1).bit_length()


def usual_buckets(most_tokens: int) -> list[tuple[int, int]]:
    """Buckets (pairs, tokens) of requests of up to so many tokens, with 24 to 64 tokens a pair on average."""
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

        The result stands until the next run.
        """
        key = (pairs, token_bucket(tokens))
        self.prepare(*key)
        graph, inputs, scores = self._graphs[key]
        inputs[: len(block)].copy_(block, non_blocking=True)
        graph.replay()
        return scores

    def prepare(self, pairs: int, tokens: int) -> None:
        """Capture the graph of a bucket, unless that is done: it takes the time of several passes."""
        if (pairs, tokens) not in self._graphs:
            self._graphs[pairs, tokens] = self._capture(pairs, tokens)

    def _capture(self, pairs: int, tokens: int) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        # Zeros stand for pairs without tokens. Query tokens are at most all tokens; what a smaller request leaves of a
        # larger one is not looked at.
        inputs = torch.zeros(4 * pairs + 2 + tokens, dtype=torch.int32, device=self._device)
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):  # kernels are compiled, and libraries take their memory, before the capture
                self._forward(inputs, pairs, tokens)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            scores = self._forward(inputs, pairs, tokens)
        return graph, inputs, scores
