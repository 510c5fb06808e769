"""The student: a small cross-encoder with one output that learns the margins between products of the same query."""

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from endcap_builders.pretrained.models import DEFAULT
from endcap_builders.relevance.encode import EncodedPairs
from endcap_builders.relevance.margin_mse import margin_mse
from endcap_builders.relevance.pairs import RelevanceError
from endcap_builders.relevance.teacher import RelevanceTeacher
from endcap_builders.relevance.training import Schedule, Track, fit, length_grouped


class ElementwiseHead(torch.nn.Module):
    """A linear head with one output, as product and sum, so that engines in bf16 do not round the logit.

    OpenVINO uses float32 only after the last matrix product. If the head were that product, the logit would be rounded
    to three digits, and half of a query's candidates would tie.
    """

    def __init__(self, head: torch.nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, head.bias

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map float [batch, hidden] to [batch, 1]."""
        return (hidden * self.weight[0]).sum(-1, keepdim=True) + self.bias


TARGET_MARGIN = 0.02
"""For logits, relevance is clipped to this distance from 0 and 1, whose logits are infinite."""


def student_targets(relevance: np.ndarray, kind: Literal["grade", "logit"]) -> np.ndarray:
    """Targets of the student's score, float32 [n] in 0..1, for relevance (labels, or the teacher's expected grade).

    `grade` is relevance itself. `logit` is log(r / (1 - r)), scaled to 0..1, which spreads values near 0 and 1.
    """
    if kind == "grade":
        return np.asarray(relevance, dtype=np.float32)
    clipped = np.clip(np.asarray(relevance, dtype=np.float64), 0, 1) * (1 - 2 * TARGET_MARGIN) + TARGET_MARGIN
    logit = np.log(clipped / (1 - clipped))
    return (0.5 + 0.5 * logit / np.log((1 - TARGET_MARGIN) / TARGET_MARGIN)).astype(np.float32)


def head_from_teacher(student: Any, teacher: RelevanceTeacher) -> None:
    """Initialise the student's output as the teacher's expected grade, to first order.

    The gradient of the expected grade under uniform grade probabilities is sum_k (grade_k - mean) / g * logit_k.

    Raises:
        RelevanceError: the teacher is no encoder.
    """
    source = _output_layer(teacher.model)
    if source is None:
        raise RelevanceError(
            "cross_encoder.checkpoint is empty, which starts the student from the teacher: expected an encoder (BERT, "
            f"MPNet, XLM-R), got {type(teacher.model).__name__}; name the student's checkpoint, e.g. {DEFAULT}"
        )
    of, to = (getattr(owner, name) for owner, name in (source, _output_layer(student) or source))
    direction = torch.from_numpy((teacher.grades - teacher.grades.mean()) / len(teacher.grades)).float()
    with torch.no_grad():
        to.weight.copy_(direction[None] @ of.weight.cpu())
        to.bias.copy_(direction[None] @ of.bias.cpu() + teacher.grades.mean())


def require_encoder(model: Any) -> None:
    """Refuse a student that the serving engines cannot run.

    Raises:
        RelevanceError: it is no encoder with a linear output.
    """
    if _output_layer(model) is None:
        raise RelevanceError(
            f"cross_encoder.checkpoint: expected an encoder (BERT, MPNet, XLM-R), got {type(model).__name__}; a "
            f"language model can be the teacher; name the student's checkpoint, e.g. {DEFAULT}"
        )


def replace_output_layer(model: Any, kind: Callable[[torch.nn.Linear], torch.nn.Module]) -> None:
    """Replace the layer that gives the logits by ``kind`` of it."""
    if (found := _output_layer(model)) is not None:
        owner, name = found
        setattr(owner, name, kind(getattr(owner, name)))


def _output_layer(model: Any) -> tuple[Any, str] | None:
    """Module and name of the linear layer that gives an encoder's logits: BERT's classifier, or the last layer of it
    (MPNet, XLM-R); None for other models.
    """
    head = getattr(model, "classifier", None)
    owner, name = (model, "classifier") if isinstance(head, torch.nn.Linear) else (head, "out_proj")
    return (owner, name) if isinstance(getattr(owner, name, None), torch.nn.Linear) else None


def train_student(
    encoded: EncodedPairs,
    model: Any,
    *,
    anchor: float,
    group_size: int,
    schedule: Schedule,
    batch_size: int,
    track: Track,
    passes: np.ndarray | None = None,
    folder: Path | None = None,
    validate: Callable[[Any], float] | None = None,
    device: str | torch.device | None = None,
    checkpointing: bool | None = None,
) -> dict[str, Any]:
    """Train on margins within groups.

    Args:
        encoded: labelled pairs; their targets (0..1) define the scale of the student's score.
        model: a sequence classifier with one output; trained in place.
        anchor: weight of the pointwise term (see `margin_mse`).
        group_size: products of a query compared in one step; larger groups are split differently each epoch.
        schedule: steps, seconds, learning rate, evaluations, and the seed that draws groups and batches.
        batch_size: pairs per step.
        track: progress bar.
        passes: how often each pair occurs in an epoch, int [n], at least 1; default 1.
        folder: checkpoints of an interrupted training.
        validate: student -> figure on held-out queries, higher is better.
        device: see `fit`, as is ``checkpointing``.
        checkpointing: see there.

    Raises:
        RelevanceError: targets that are not finite, or no query with two products.
    """
    pairs = encoded.pairs
    if not np.isfinite(pairs.target).all():
        place = int(np.flatnonzero(~np.isfinite(pairs.target))[0])
        raise RelevanceError(
            f"student: expected a finite teacher score for every pair, got {pairs.target[place]} for query "
            f"{pairs.queries[pairs.query[place]]!r}, product row {pairs.product[place]}; build the teacher again"
        )
    offsets = pairs.offsets
    if not (np.diff(offsets) > 1).any():
        raise RelevanceError(
            f"student: expected queries with at least two products, got {len(pairs.queries)} queries with one each; "
            "a margin needs two: add judgements or mine candidates"
        )
    targets, queries = torch.from_numpy(pairs.target), torch.from_numpy(pairs.query.astype(np.int64))

    repeats = np.ones(len(pairs), dtype=np.int64) if passes is None else passes

    def batches(epoch: int) -> Iterable[np.ndarray]:
        rng = np.random.default_rng((schedule.seed, epoch))
        units = _cut_groups(offsets, group_size, rng)
        for again in range(1, int(repeats.max())):
            units += [unit[repeats[unit] > again] for unit in _cut_groups(offsets, group_size, rng)]
        return length_grouped(encoded, [unit for unit in units if len(unit)], batch_size, rng)

    def loss(logits: torch.Tensor, indices: np.ndarray) -> torch.Tensor:
        chosen = torch.from_numpy(indices)
        groups = torch.unique(queries[chosen], return_inverse=True)[1]
        return margin_mse(logits[:, 0], targets[chosen].to(logits.device), groups.to(logits.device), anchor=anchor)

    return fit(
        model,
        encoded,
        batches,
        loss,
        schedule,
        track,
        "training the student",
        folder=folder,
        validate=validate,
        device=device,
        checkpointing=checkpointing,
    )


def _cut_groups(offsets: np.ndarray, group_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffle each group and split it into parts of nearly equal size, at most `group_size`."""
    units: list[np.ndarray] = []
    for start, end in itertools.pairwise(offsets):
        if end > start:
            units.extend(np.array_split(rng.permutation(np.arange(start, end)), -(-(end - start) // group_size)))
    return units
