"""Fused Triton kernels of endcap: margins, scores, losses, and a packed cross-encoder (docs/kernels.md)."""

from endcap_kernels.add_layer_norm import add_layer_norm
from endcap_kernels.dispatch import recorded_launches
from endcap_kernels.embed_layer_norm import embed_layer_norm
from endcap_kernels.fuse_top_k import TopK, fuse_top_k
from endcap_kernels.gelu_bias import gelu_bias
from endcap_kernels.join_pairs import JoinedPairs, join_pairs
from endcap_kernels.margin_mse_loss import margin_mse_loss
from endcap_kernels.margin_scores import margin_scores
from endcap_kernels.packed_attention import causal_attention, packed_attention
from endcap_kernels.packed_cross_encoder import PackedCrossEncoder
from endcap_kernels.scan_top_k import ItemMatrix, Nearest, scan_top_k

__all__ = [
    "ItemMatrix",
    "JoinedPairs",
    "Nearest",
    "PackedCrossEncoder",
    "TopK",
    "add_layer_norm",
    "causal_attention",
    "embed_layer_norm",
    "fuse_top_k",
    "gelu_bias",
    "join_pairs",
    "margin_mse_loss",
    "margin_scores",
    "packed_attention",
    "recorded_launches",
    "scan_top_k",
]
