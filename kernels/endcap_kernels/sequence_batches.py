"""Passes over sequences of tokens: one int32 block is transferred, and on a GPU a pass is one CUDA graph.

Everything in a block has a fixed distance from its start, as a CUDA graph requires:

    offsets [room + 1] | values [room] | tiles [count, 2] | ids [tokens] | positions [tokens]
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from endcap_kernels.packed_attention import tile_count, tile_map
from endcap_kernels.pair_batches import Array
from endcap_kernels.token_graphs import TokenGraphs, bucket


class SequenceBatch(NamedTuple):
    """Packed sequences; all int32."""

    offsets: Tensor
    """[N + 1], first token of each sequence, and the end of the last."""
    values: Tensor
    """[N], a number for each sequence, 0 where nothing was given."""
    tiles: Tensor
    """`packed_attention.tile_map` of the offsets."""
    ids: Tensor
    """[tokens], 0 after the last sequence."""
    positions: Tensor
    """[tokens], from 0 in each sequence; 0 after the last."""


class SequencePasses:
    """Forward passes of one model over batches of sequences. Not re-entrant: one thread calls it."""

    def __init__(
        self,
        forward: Callable[[SequenceBatch], Tensor],
        vocabulary: int,
        longest: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Capture no graph yet.

        Args:
            forward: gives a tensor [N, ...] for N sequences, and does not wait for a GPU.
            vocabulary: number of token ids.
            longest: most tokens of a sequence.
            device: where the model is.
            dtype: of the model; attention's tiles depend on it.
        """
        self._forward, self._device, self._dtype = forward, device, dtype
        self._vocabulary, self._longest = vocabulary, longest
        self._graphs = TokenGraphs(self._run, self._sizes_sum, device) if device.type == "cuda" else None

    def warm_up(self, most_tokens: int) -> int:
        """Capture the CUDA graphs of batches of at most ``most_tokens`` tokens; returns their number, 0 on the CPU."""
        return 0 if self._graphs is None else self._graphs.warm_up(most_tokens)

    def start(self, sequences: Sequence[Array], values: Array | None = None) -> Callable[[], Tensor]:
        """Start a pass; on a GPU, nothing is waited for.

        Args:
            sequences: token ids of each sequence, int [any].
            values: a number for each sequence, int [N]; 0 if not given.

        Returns:
            A function that waits for the result, [N, ...], on the host.

        Raises:
            ValueError: a sequence that is too long, or a token id that the model does not have.
        """
        lengths = np.array([len(ids) for ids in sequences], np.int64)
        ids = np.concatenate([np.zeros(0, np.int64), *sequences])
        if len(lengths) and int(lengths.max()) > self._longest:
            place = int(lengths.argmax())
            raise ValueError(
                f"sequence {place}: expected at most {self._longest} tokens, got {lengths[place]}; cut the text"
            )
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self._vocabulary:
            wrong = ids[(ids < 0) | (ids >= self._vocabulary)][0]
            raise ValueError(f"sequences: expected token ids in 0..{self._vocabulary - 1}, got {wrong}")
        count, total = len(lengths), len(ids)
        room, tokens = (count, total) if self._graphs is None else bucket(count, total)
        block = torch.from_numpy(self._lay_out(lengths, ids, values, room, tokens))
        if self._graphs is None:
            result = self._run(block.to(self._device), room, tokens).cpu()
            return lambda: result
        wait = self._graphs.start(block.pin_memory(), room, tokens)
        return lambda: wait()[:count]

    def _sizes(self, room: int, tokens: int) -> list[int]:
        return [room + 1, room, 2 * tile_count(tokens, room, self._dtype), tokens, tokens]

    def _sizes_sum(self, room: int, tokens: int) -> int:
        return sum(self._sizes(room, tokens))

    def _lay_out(self, lengths: Array, ids: Array, values: Array | None, room: int, tokens: int) -> Array:
        """The block of some sequences: int32; those from ``len(lengths)`` to ``room`` have no tokens."""
        ends = np.cumsum(lengths)
        starts = np.repeat(ends - lengths, lengths)
        offsets = np.full(room + 1, len(ids), np.int32)
        offsets[0] = 0
        offsets[1 : len(ends) + 1] = ends
        block = np.zeros(self._sizes_sum(room, tokens), np.int32)
        given, places, tiles, all_ids, positions = np.split(block, np.cumsum(self._sizes(room, tokens))[:-1])
        given[:] = offsets
        if values is not None:
            places[: len(lengths)] = values
        tiles[:] = tile_map(torch.from_numpy(offsets), tokens, self._dtype).flatten().numpy()
        all_ids[: len(ids)] = ids
        positions[: len(ids)] = np.arange(len(ids)) - starts
        return block

    def _run(self, block: Tensor, room: int, tokens: int) -> Tensor:
        offsets, values, tiles, ids, positions = torch.split(block, self._sizes(room, tokens))
        return self._forward(SequenceBatch(offsets, values, tiles.view(-1, 2), ids, positions))
