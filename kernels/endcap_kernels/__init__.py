"""Fused Triton kernels of endcap: scores, losses, packed encoders and a packed ranker (docs/kernels.md)."""

from endcap_kernels.add_layer_norm import add_layer_norm
from endcap_kernels.candidate_logits import candidate_logits
from endcap_kernels.dispatch import recorded_launches
from endcap_kernels.embed_layer_norm import embed_layer_norm
from endcap_kernels.fuse_top_k import TopK, fuse_top_k
from endcap_kernels.gelu_bias import gelu_bias
from endcap_kernels.join_pairs import JoinedPairs, join_pairs
from endcap_kernels.margin_mse_loss import margin_mse_loss
from endcap_kernels.margin_scores import margin_scores
from endcap_kernels.packed_attention import causal_attention, packed_attention
from endcap_kernels.packed_bi_encoder import PackedBiEncoder
from endcap_kernels.packed_cross_encoder import PackedCrossEncoder
from endcap_kernels.packed_ranker import PackedRanker, Ranked
from endcap_kernels.pool_normalise import pool_normalise
from endcap_kernels.rms_norm import Added, add_rms_norm
from endcap_kernels.rotary import rotary_table, rotate
from endcap_kernels.scan_top_k import ItemMatrix, Nearest, scan_top_k
from endcap_kernels.swiglu import swiglu

__all__ = [
    "Added",
    "ItemMatrix",
    "JoinedPairs",
    "Nearest",
    "PackedBiEncoder",
    "PackedCrossEncoder",
    "PackedRanker",
    "Ranked",
    "TopK",
    "add_layer_norm",
    "add_rms_norm",
    "candidate_logits",
    "causal_attention",
    "embed_layer_norm",
    "fuse_top_k",
    "gelu_bias",
    "join_pairs",
    "margin_mse_loss",
    "margin_scores",
    "packed_attention",
    "pool_normalise",
    "recorded_launches",
    "rotary_table",
    "rotate",
    "scan_top_k",
    "swiglu",
]
