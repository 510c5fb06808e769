"""The student's loss against its definition, and the teacher's soft targets."""

import itertools

import numpy as np
import pytest
import torch
from endcap_builders.relevance.labels import soft_targets
from endcap_builders.relevance.margin_mse import margin_mse
from endcap_builders.relevance.pairs import RelevanceError
from endcap_builders.relevance.student import student_targets
from endcap_kernels.dispatch import recorded_launches
from hypothesis import given, settings
from hypothesis import strategies as st


def naive(scores, targets, groups, anchor, weights):
    """The double loop over pairs of a group, as the paper writes it."""
    total, pairs = 0.0, 0.0
    for i, j in itertools.combinations(range(len(scores)), 2):
        if groups[i] == groups[j]:
            weight = weights[i] * weights[j]
            total += weight * ((scores[i] - scores[j]) - (targets[i] - targets[j])) ** 2
            pairs += weight
    level = float((weights * (scores - targets) ** 2).sum() / weights.sum())
    return (total / pairs if pairs else 0.0) + anchor * level


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    anchor=st.sampled_from([0.0, 0.3, 1.0]),
    weighted=st.booleans(),
)
def test_closed_form_equals_double_loop(sizes, seed, anchor, weighted):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    scores, targets = rng.normal(size=len(groups)), rng.random(len(groups))
    weights = rng.uniform(0.1, 2, len(groups)) if weighted else np.ones(len(groups))
    loss = margin_mse(
        torch.tensor(scores),
        torch.tensor(targets),
        torch.tensor(groups),
        anchor=anchor,
        weights=torch.tensor(weights) if weighted else None,
    )
    assert float(loss) == pytest.approx(naive(scores, targets, groups, anchor, weights), rel=1e-4, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    anchor=st.sampled_from([0.0, 0.3]),
    weighted=st.booleans(),
)
def test_fused_kernel_and_plain_torch_agree(sizes, seed, anchor, weighted):
    rng = np.random.default_rng(seed)
    groups = torch.tensor(rng.permutation(np.repeat(np.arange(len(sizes)), sizes)))
    targets = torch.tensor(rng.random(len(groups)), dtype=torch.float32)
    weights = torch.tensor(rng.uniform(0.1, 2, len(groups)), dtype=torch.float32) if weighted else None
    start = torch.tensor(rng.normal(3, 1, len(groups)), dtype=torch.float32)
    losses, gradients = [], []
    for fused in (False, True):
        scores = start.clone().requires_grad_()
        with recorded_launches() as launched:
            loss = margin_mse(scores, targets, groups, anchor=anchor, weights=weights, fused=fused)
            loss.backward()
        assert bool(launched) == fused
        losses.append(loss.detach())
        gradients.append(scores.grad)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)


def test_gradient_equals_that_of_double_loop():
    rng = np.random.default_rng(0)
    groups = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])
    targets = torch.tensor(rng.random(8))
    fast, slow = (torch.tensor(np.linspace(-1, 2, 8), requires_grad=True) for _ in range(2))
    margin_mse(fast, targets, groups, anchor=0.3).backward()
    same = groups[:, None] == groups[None]
    above = torch.triu(same, diagonal=1)
    margins = (slow[:, None] - slow[None]) - (targets[:, None] - targets[None])
    (margins[above].square().mean() + 0.3 * (slow - targets).square().mean()).backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-5, atol=1e-6)


def test_shifting_a_group_costs_nothing_without_anchor():
    targets = torch.tensor([0.1, 0.9, 0.4, 0.2])
    shifted = targets + torch.tensor([5000.0, 5000.0, -3.0, -3.0])
    groups = torch.tensor([0, 0, 1, 1])
    assert float(margin_mse(shifted, targets, groups)) == pytest.approx(0, abs=1e-5)
    assert float(margin_mse(shifted, targets, groups, anchor=0.1)) > 1


def test_groups_of_one_have_no_margin():
    scores = torch.tensor([3.0, -1.0], requires_grad=True)
    loss = margin_mse(scores, torch.zeros(2), torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.tolist() == [0, 0]


def test_bad_input_is_named():
    one = torch.ones(3)
    with pytest.raises(ValueError, match=r"one shape \[n\]"):
        margin_mse(one, torch.ones(2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="finite targets, got nan at 1"):
        margin_mse(one, torch.tensor([0, float("nan"), 0]), torch.zeros(3, dtype=torch.long))


@settings(max_examples=50, deadline=None)
@given(labels=st.lists(st.floats(0, 1), max_size=20), grades=st.integers(2, 7))
def test_soft_targets_are_distributions_with_the_label_as_mean(labels, grades):
    levels = np.linspace(0, 1, grades)
    targets = soft_targets(np.array(labels), levels)
    assert targets.shape == (len(labels), grades)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(targets @ levels, labels, atol=1e-6)
    assert (targets >= -1e-7).all()
    assert ((targets > 1e-6).sum(axis=1) <= 2).all()


def test_soft_targets_refuse_unscaled_labels():
    for label in (2.0, -0.5, float("nan")):
        with pytest.raises(RelevanceError, match=r"relevance in 0\.\.1"):
            soft_targets(np.array([0.5, label]), np.linspace(0, 1, 4))


def test_spread_labels_are_distributions_around_the_label():
    levels = np.linspace(0, 1, 5)
    targets = soft_targets(np.array([0.5, 1.0, 0.0]), levels, spread=0.7)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    assert targets.argmax(axis=1).tolist() == [2, 4, 0]
    np.testing.assert_allclose(targets[0], targets[0][::-1], atol=1e-6)
    assert (targets[1] > 1e-5).sum() > 2
    wide = soft_targets(np.array([0.5]), levels, spread=2.0)[0]
    assert wide.max() < targets[0].max()


def test_student_targets_keep_order_and_range():
    relevance = np.linspace(0, 1, 11)
    assert student_targets(relevance, "grade").tolist() == relevance.astype(np.float32).tolist()
    logits = student_targets(relevance, "logit")
    assert np.isfinite(logits).all()
    np.testing.assert_allclose([logits[0], logits[5], logits[-1]], [0, 0.5, 1], atol=1e-6)
    assert (np.diff(logits) > 0).all()
    assert logits[-1] - logits[-2] > 2 * (logits[6] - logits[5])
