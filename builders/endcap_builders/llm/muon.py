"""Muon: steps of momentum made orthogonal, for the weight matrices of a model (K. Jordan et al., 2024).

PyTorch's own `torch.optim.Muon` computes in bf16 only, which CPUs without bf16 instructions emulate at a fifth of the
speed of float32. This one takes the type as a parameter, and is otherwise the same.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Coefficients of the quintic Newton-Schulz iteration."""
_ITERATIONS = 5
_SMALLEST = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay.

    Args:
        parameters: matrices.
        lr: learning rate of a square matrix; that of a matrix with more rows than columns grows with their ratio.
        momentum: share of the momentum that a step keeps, 0..1.
        weight_decay: share of a weight that it loses in a step, times the learning rate.
        dtype: in which momentum is made orthogonal.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Change the matrices by one step; `closure` is not supported."""
        if closure is not None:
            raise ValueError("closure: expected none")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                buffer = state.setdefault("momentum", torch.zeros_like(parameter))
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(buffer, group["momentum"]), self._dtype)
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """A matrix with nearly the singular vectors of `matrix` [m, n], and singular values near 1: of its own type."""
    wide = matrix.to(dtype) if matrix.shape[0] <= matrix.shape[1] else matrix.to(dtype).T
    wide = wide / wide.norm().clamp(min=_SMALLEST)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=_B, alpha=_C), wide, beta=_A)
    return (wide if matrix.shape[0] <= matrix.shape[1] else wide.T).to(matrix.dtype)
