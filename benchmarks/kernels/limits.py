"""The GPU's memory bandwidth and compute throughput, measured first in each run; other figures are shares of them."""

from dataclasses import dataclass

import torch

from benchmarks.kernels.timing import measure


@dataclass(frozen=True)
class DeviceLimits:
    """The limits that were measured in this run."""

    copy_bytes_per_s: float
    """Bytes read and written per second by a large device-to-device copy."""
    bf16_operations_per_s: float
    """Multiplications and additions per second in a large bfloat16 matrix product of random numbers."""

    def floor_us(self, moved: float, operations: float) -> tuple[float, str]:
        """Lower bound of the time in microseconds for these bytes and operations, and which of them determines it."""
        by_memory = 1e6 * moved / self.copy_bytes_per_s
        by_matrices = 1e6 * operations / self.bf16_operations_per_s
        return (by_memory, "copy") if by_memory >= by_matrices else (by_matrices, "matrix")


def measure_limits() -> DeviceLimits:
    """Copy 4 GiB; multiply two 8192 x 8192 matrices."""
    return DeviceLimits(_copied_bytes_per_s(), _multiplied_per_s(8192))


def _copied_bytes_per_s() -> float:
    source = torch.randn(2**30, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (1e-6 * measure(lambda: target.copy_(source)).p50)


def _multiplied_per_s(size: int) -> float:
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(left)
    return 2 * size**3 / (1e-6 * measure(lambda: torch.mm(left, right, out=product)).p50)
