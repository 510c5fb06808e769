"""Ragged groups in kernels: which group and which part of it a program works on, without a word from the host.

The sizes of groups stand on the GPU; asking for the largest one would wait for it. So a grid is made that has room for
every group whatever the sizes: group g owns the slots ``offsets[g] // block + g`` up to that of the next group, which
are at least ``ceil(size / block)`` and always one. Programs find their group by bisection; spare ones end at once.
The parts of a group start at the group's first row, so what is computed for a group does not depend on its batch.
"""

import triton
import triton.language as tl


def slots(rows: int, groups: int, block: int) -> int:
    """Programs of a grid over ``groups`` groups with ``rows`` rows in all, in parts of ``block`` rows."""
    return rows // block + groups


def search_steps(groups: int) -> int:
    """Steps of the bisection among ``groups`` groups."""
    return max(groups, 1).bit_length()


@triton.jit
def find_group(offsets_ptr, slot, groups, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    """Return the group that owns ``slot``, and which of its parts this is: (group, part), int64 scalars."""
    slot = slot.to(tl.int64)
    low = slot * 0
    high = low + groups
    for _ in tl.static_range(STEPS):
        middle = (low + high) // 2
        first = tl.load(offsets_ptr + middle).to(tl.int64) // BLOCK + middle
        low = tl.where(first <= slot, middle, low)
        high = tl.where(first <= slot, high, middle)
    return low, slot - tl.load(offsets_ptr + low).to(tl.int64) // BLOCK - low
