import pytest
import torch
from endcap_builders.llm.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (32, 32)])
def test_singular_values_become_alike(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 7
    values = torch.linalg.svdvals(orthogonal(matrix, torch.float32))
    assert values.min() > 0.3
    assert values.max() < 1.5


def test_steps_are_those_of_pytorch():
    torch.manual_seed(2)
    start = torch.randn(48, 20) / 5
    mine, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = [
        Muon([mine], 0.02),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.01, momentum=0.95),
    ]
    for _ in range(5):
        gradient = torch.randn(48, 20)
        for parameter, optimizer in zip((mine, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).norm()
    assert (mine - theirs).norm() < 0.03 * moved, "PyTorch rounds to bf16 within a step"


def test_a_closure_is_refused():
    with pytest.raises(ValueError, match="closure"):
        Muon([torch.nn.Parameter(torch.zeros(2, 2))], 0.1).step(lambda: None)
