"""Ragged groups in kernels: programs find their group and its part without the host.

The sizes of groups are on the GPU; reading the largest one would wait for the GPU. The grid is therefore large enough
for any sizes: group g owns the slots from ``offsets[g] // block + g`` up to the first slot of the next group. These are
at least ``ceil(size / block)`` slots, and at least one. Programs find their group by bisection; spare programs end at
once. The parts of a group start at its first row, so results do not depend on the batch.
"""

import triton
import triton.language as tl


def slots(rows: int, groups: int, block: int) -> int:
    """Programs of a grid for ``groups`` groups with ``rows`` rows in all, in parts of ``block`` rows."""
    return rows // block + groups


def search_steps(groups: int) -> int:
    """Steps of the bisection among ``groups`` groups."""
    return max(groups, 1).bit_length()


@triton.jit
def find_group(offsets_ptr, slot, groups, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    """Return the group that owns ``slot``, and the number of the part: (group, part), int64 scalars."""
    slot = slot.to(tl.int64)
    low = slot * 0
    high = low + groups
    for _ in tl.static_range(STEPS):
        middle = (low + high) // 2
        first = tl.load(offsets_ptr + middle).to(tl.int64) // BLOCK + middle
        low = tl.where(first <= slot, middle, low)
        high = tl.where(first <= slot, high, middle)
    return low, slot - tl.load(offsets_ptr + low).to(tl.int64) // BLOCK - low
