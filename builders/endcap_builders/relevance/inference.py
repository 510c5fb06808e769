"""Logits of pairs: the body of a classifier in bf16 where that is fast, its head in float32."""

from typing import Any

import numpy as np
import torch

from endcap_builders.machine import computes_bf16
from endcap_builders.relevance.checkpoints import HEADS
from endcap_builders.relevance.encode import EncodedPairs


@torch.inference_mode()
def predict(
    model: torch.nn.Module, encoded: EncodedPairs, indices: np.ndarray | None = None, batch_size: int = 64
) -> np.ndarray:
    """Logits of pairs, float32 [n, labels], in the order of `indices` (default: all)."""
    indices = np.arange(len(encoded.pairs)) if indices is None else indices
    device = next(model.parameters()).device
    model.eval()
    place = np.full(len(encoded.pairs), -1, dtype=np.int64)
    place[indices] = np.arange(len(indices))
    logits: np.ndarray | None = None
    for part in encoded.sorted_batches(indices, batch_size):
        batch = {name: tensor.to(device) for name, tensor in encoded.batch(part).items()}
        output = logits_of(model, batch).cpu().numpy()
        if logits is None:
            logits = np.empty((len(indices), output.shape[1]), dtype=np.float32)
        logits[place[part]] = output
    return np.empty((0, 1), dtype=np.float32) if logits is None else logits


def logits_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits float32 [b, labels] of one batch.

    A head in bf16 would round its result to three digits, so that similar products would tie.
    """
    body = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = next((child for name, child in body.named_children() if name in HEADS), None)
    device = batch["input_ids"].device.type
    fast = device != "cpu" or computes_bf16()
    if head is None:
        with torch.autocast(device, torch.bfloat16, enabled=fast):
            return model(**batch).logits.float()
    exact = head.forward

    def forward(hidden: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, enabled=False):
            return exact(hidden.float(), *more)

    head.forward = forward
    try:
        with torch.autocast(device, torch.bfloat16, enabled=fast):
            return model(**batch).logits.float()
    finally:
        del head.forward
