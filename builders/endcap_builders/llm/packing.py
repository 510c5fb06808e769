"""Rows of one shape, into which training packs examples one after another."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from endcap_builders.llm.training import Encoded


@dataclass(frozen=True)
class Packed:
    """Examples packed into B rows of L tokens."""

    ids: Tensor  # int64 [B, L]
    positions: Tensor  # int64 [B, L], from 0 within each example
    mask: Tensor  # bool [B, 1, L, L], true where a token may look: back, within its own example
    ends: Tensor  # int64 [n], place of the last token of each example in the rows one after another

    def to(self, device: torch.device) -> "Packed":
        """The same rows on a device."""
        return Packed(*(tensor.to(device) for tensor in (self.ids, self.positions, self.mask, self.ends)))


def pack(rows: list[list[Encoded]], width: int, pad: int) -> Packed:
    """Pack the examples of each row one after another into `width` tokens."""
    shape = (len(rows), width)
    ids, positions = np.full(shape, pad, np.int64), np.zeros(shape, np.int64)
    owner = np.full(shape, -1, np.int64)
    ends = []
    for row, examples in enumerate(rows):
        end = 0
        for number, (tokens, _) in enumerate(examples):
            start, end = end, end + len(tokens)
            ids[row, start:end] = tokens
            positions[row, start:end] = np.arange(len(tokens))
            owner[row, start:end] = number
            ends.append(row * width + end - 1)
    mask = (owner[:, :, None] == owner[:, None, :]) & np.tril(np.ones((width, width), bool))
    return Packed(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        mask=torch.from_numpy(mask[:, None]),
        ends=torch.tensor(ends),
    )
