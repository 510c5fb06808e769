"""Cases for compilation without a GPU: each public function with the types and sizes in use."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from endcap_kernels.add_layer_norm import add_layer_norm
from endcap_kernels.candidate_logits import candidate_logits
from endcap_kernels.embed_layer_norm import embed_layer_norm
from endcap_kernels.fuse_top_k import fuse_top_k
from endcap_kernels.gelu_bias import gelu_bias
from endcap_kernels.join_pairs import join_pairs
from endcap_kernels.margin_mse_loss import margin_mse_loss
from endcap_kernels.margin_scores import MANY_ROWS, margin_scores
from endcap_kernels.packed_attention import causal_attention, packed_attention
from endcap_kernels.pool_normalise import pool_normalise
from endcap_kernels.rms_norm import add_rms_norm
from endcap_kernels.rotary import rotate
from endcap_kernels.scan_top_k import scan_top_k
from endcap_kernels.swiglu import swiglu

_SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}


def _offsets(groups: int, size: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.arange(groups + 1, dtype=dtype) * size


def _margin_mse_loss(dtype: torch.dtype, weighted: bool) -> Callable[[], Any]:
    def call() -> None:
        scores, targets = (torch.randn(64 * 36, dtype=dtype) for _ in range(2))
        weights = torch.rand_like(scores) if weighted else None
        loss = margin_mse_loss(scores.requires_grad_(), targets, _offsets(64, 36), weights)
        loss.backward()

    return call


def _fuse_top_k(dtype: torch.dtype, everything: bool) -> Callable[[], Any]:
    def call() -> None:
        relevance, groups = torch.randn(800).to(dtype), 8
        offsets, k = _offsets(groups, 100), torch.full((groups,), 12)
        if everything:
            boosts, mask = torch.ones(800), torch.ones(800, dtype=torch.bool)
            fuse_top_k(relevance, offsets, k, torch.ones(groups, 2), relevance, boosts, mask, 100)
        else:
            fuse_top_k(relevance, offsets, 12, torch.ones(2))

    return call


def _margin_scores(rows: int, size: int, dtype: torch.dtype) -> Callable[[], Any]:
    def call() -> None:
        def make(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=dtype)

        margin_scores(make(rows, size), _offsets(rows, 1), make(size, size), make(size), make(size), make(1))

    return call


def _layer_norms(size: int, dtype: torch.dtype) -> Callable[[], Any]:
    def call() -> None:
        states, vector, index = (
            torch.zeros(64, size, dtype=dtype),
            torch.zeros(size, dtype=dtype),
            torch.zeros(64).int(),
        )
        add_layer_norm(states, states, vector, vector, vector)
        embed_layer_norm(index, index, index, states, states, states, vector, vector)

    return call


def _gelu_bias(size: int, dtype: torch.dtype) -> Callable[[], Any]:
    return lambda: gelu_bias(torch.zeros(64, size, dtype=dtype), torch.zeros(size, dtype=dtype))


def _packed_attention(length: int, heads: int, size: int, dtype: torch.dtype) -> Callable[[], Any]:
    return lambda: packed_attention(torch.zeros(100 * length, 3, heads, size, dtype=dtype), _offsets(100, length))


def _causal_attention() -> None:
    qkv = torch.zeros(6400, 12 + 2 * 4, 64, dtype=torch.bfloat16)
    causal_attention(qkv, 12, _offsets(100, 64))


def _add_rms_norm(size: int, dtype: torch.dtype) -> Callable[[], Any]:
    def call() -> None:
        states = torch.zeros(64, size, dtype=dtype)
        add_rms_norm(states, states[0], states)

    return call


def _rotate() -> None:
    rotate(torch.zeros(6400, 20, 64).bfloat16(), 16, torch.zeros(6400).int(), torch.zeros(2048, 64))


def _candidate_logits() -> None:
    states, heads = torch.zeros(16, 256).bfloat16(), torch.zeros(60, 256).bfloat16()
    candidate_logits(states, states, states[0], heads, torch.zeros(16).int())


def _pool_normalise() -> None:
    pool_normalise(torch.zeros(6400, 384).bfloat16(), _offsets(100, 64))


def _scan_top_k(k: int, quantised: bool) -> Callable[[], Any]:
    def call() -> None:
        rows, queries = 4096, torch.zeros(16, 384).half()
        items = torch.zeros(rows, 384, dtype=torch.int8 if quantised else torch.float16)
        scan_top_k(queries, items, k, torch.zeros(rows // 8).byte(), torch.zeros(rows) if quantised else None)

    return call


def _join_pairs() -> None:
    tokens, offsets, pairs = torch.zeros(640).int(), _offsets(10, 64), torch.zeros(10).int()
    join_pairs(tokens, offsets, tokens, offsets.long(), pairs, pairs, _offsets(10, 40), 3, 512)


def _all_cases() -> dict[str, Callable[[], Any]]:
    cases: dict[str, Callable[[], Any]] = {
        "margin_mse_loss fp32": _margin_mse_loss(torch.float32, False),
        "margin_mse_loss bf16 weights": _margin_mse_loss(torch.bfloat16, True),
        "margin_mse_loss fp64": _margin_mse_loss(torch.float64, True),
        "fuse_top_k fp32 all": _fuse_top_k(torch.float32, True),
        "fuse_top_k bf16 plain": _fuse_top_k(torch.bfloat16, False),
    }
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        cases[f"margin_scores 768 {_SHORT[dtype]}"] = _margin_scores(100, 768, dtype)
    for size in (384, 1024):
        cases[f"margin_scores {size} bf16"] = _margin_scores(100, size, torch.bfloat16)
    cases["margin_scores 768 bf16 many"] = _margin_scores(MANY_ROWS, 768, torch.bfloat16)
    for size in (384, 768, 1024):
        cases[f"layer norms {size} bf16"] = _layer_norms(size, torch.bfloat16)
    cases["layer norms 768 fp32"] = _layer_norms(768, torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        cases[f"gelu_bias 3072 {_SHORT[dtype]}"] = _gelu_bias(3072, dtype)
    cases["gelu_bias 1536 bf16"] = _gelu_bias(1536, torch.bfloat16)
    for length, heads, size, dtype in (
        (40, 12, 32, torch.bfloat16),
        (40, 12, 64, torch.bfloat16),
        (256, 12, 64, torch.bfloat16),
        (40, 12, 64, torch.float16),
        (40, 12, 64, torch.float32),
    ):
        cases[f"packed_attention {length}x{size} {_SHORT[dtype]}"] = _packed_attention(length, heads, size, dtype)
    for size in (256, 2048):
        cases[f"add_rms_norm {size} bf16"] = _add_rms_norm(size, torch.bfloat16)
    cases["add_rms_norm 256 fp32"] = _add_rms_norm(256, torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        cases[f"swiglu 704 {_SHORT[dtype]}"] = partial(swiglu, torch.zeros(64, 2 * 704, dtype=dtype))
    cases["rotate 64 bf16"] = _rotate
    cases["candidate_logits 60 of 256 bf16"] = _candidate_logits
    cases["pool_normalise 384 bf16"] = _pool_normalise
    cases["causal_attention 64x64 bf16"] = _causal_attention
    for k in (60, 128):
        cases[f"scan_top_k {k} fp16"] = _scan_top_k(k, False)
    cases["scan_top_k 60 int8"] = _scan_top_k(60, True)
    cases["join_pairs"] = _join_pairs
    return cases


CASES: dict[str, Callable[[], Any]] = _all_cases()
"""Cases by name."""
