"""Fused Triton kernels of endcap: margins, scores, losses, and a packed cross-encoder (docs/kernels.md)."""

from endcap_kernels.dispatch import recorded_launches
from endcap_kernels.fuse_top_k import TopK, fuse_top_k
from endcap_kernels.margin_mse_loss import margin_mse_loss
from endcap_kernels.margin_scores import margin_scores
from endcap_kernels.pairwise_margins import PairwiseMargins, pairwise_margins

__all__ = [
    "PairwiseMargins",
    "TopK",
    "fuse_top_k",
    "margin_mse_loss",
    "margin_scores",
    "pairwise_margins",
    "recorded_launches",
]
