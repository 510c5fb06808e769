"""CUDA graphs over buckets of token counts: one launch for the hundred kernels of a forward pass.

A graph computes a fixed number of tokens; a request uses the smallest bucket that is large enough. Buckets are a
quarter of an octave apart, so at most a fifth of the work is padding. The number of tokens alone determines a bucket:
it has room for sequences of some least length, because a sequence without tokens costs next to nothing.
"""

from collections.abc import Callable

import torch
from torch import Tensor

LEAST_TOKENS = 256
LEAST_LENGTH = 16
"""Mean length of sequences from which a bucket has room for all of them."""
_WARM_UPS = 3


def token_bucket(tokens: int) -> int:
    """The smallest of 256, 320, 384, 448, 512, 640, ... that is at least ``tokens``."""
    if tokens <= LEAST_TOKENS:
        return LEAST_TOKENS
    step = 1 << ((tokens - 1).bit_length() - 3)
    return -(-tokens // step) * step


def bucket(sequences: int, tokens: int, least_length: int = LEAST_LENGTH) -> tuple[int, int]:
    """Room for sequences and tokens: (sequences, tokens)."""
    room = token_bucket(max(tokens, least_length * sequences))
    return room // least_length, room


class TokenGraphs:
    """Captured forward passes of one model on one GPU. Not re-entrant."""

    def __init__(
        self,
        forward: Callable[[Tensor, int, int], Tensor],
        block_size: Callable[[int, int], int],
        device: torch.device,
        least_length: int = LEAST_LENGTH,
    ) -> None:
        """Capture no graph yet.

        Args:
            forward: ``forward(block, sequences, tokens)`` gives a tensor [sequences, ...] and must not wait for the
                GPU. A block of zeros means sequences without tokens.
            block_size: numbers in the block of a bucket (sequences, tokens).
            device: GPU.
            least_length: see `bucket`.
        """
        self._forward, self._block_size = forward, block_size
        self._device, self._least_length = device, least_length
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __len__(self) -> int:
        return len(self._graphs)

    def start(self, block: Tensor, sequences: int, tokens: int) -> Callable[[], Tensor]:
        """Start the pass of a block (int32, pinned, on the host) that was laid out for a `bucket`.

        Copies and passes are in the order of one stream, so a second request may be started before the first is done.

        Returns:
            A function that waits for the result, on the host.
        """
        self.prepare(sequences, tokens)
        graph, inputs, outputs = self._graphs[sequences, tokens]
        inputs[: len(block)].copy_(block, non_blocking=True)
        graph.replay()
        # Graphs share memory: the result is copied before the next replay.
        host = torch.empty(outputs.shape, dtype=outputs.dtype, pin_memory=True)
        host.copy_(outputs, non_blocking=True)
        finished = torch.cuda.Event()
        finished.record()

        def wait() -> Tensor:
            finished.synchronize()
            return host

        return wait

    def warm_up(self, most_tokens: int) -> int:
        """Capture the graphs of all buckets for at most ``most_tokens`` tokens; returns their number."""
        for room in usual_buckets(most_tokens):
            self.prepare(room // self._least_length, room)
        return len(self)

    def prepare(self, sequences: int, tokens: int) -> None:
        """Capture the graph of a bucket, if it does not exist; this takes the time of several passes."""
        if (sequences, tokens) not in self._graphs:
            self._graphs[sequences, tokens] = self._capture(sequences, tokens)

    def _capture(self, sequences: int, tokens: int) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        inputs = torch.zeros(self._block_size(sequences, tokens), dtype=torch.int32, device=self._device)
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):  # compile kernels and let libraries allocate memory before the capture
                self._forward(inputs, sequences, tokens)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = self._forward(inputs, sequences, tokens)
        return graph, inputs, outputs


def usual_buckets(most_tokens: int) -> list[int]:
    """Tokens of all buckets up to that of ``most_tokens``."""
    rooms, room = [], LEAST_TOKENS
    while room <= token_bucket(most_tokens):
        rooms.append(room)
        room = token_bucket(room + 1)
    return rooms
