"""Runs every kernel once at small odd sizes: what compute-sanitizer watches (test_sanitizer.py)."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))


def main() -> None:
    import endcap_kernels as kernels
    from ragged_inputs import normal, offsets_of
    from references import rows_of, tokens_of, weights_of

    sizes = [5, 0, 64, 1, 65]
    count, offsets = sum(sizes), offsets_of(sizes)
    kernels.margin_mse_loss(normal(count).requires_grad_(), normal(count, seed=1), offsets).backward()
    kernels.fuse_top_k(normal(count), offsets, 9, torch.ones(2, device="cuda"), normal(count, seed=1))
    for dtype in (torch.float32, torch.bfloat16):
        kernels.margin_scores(normal(count, 144, dtype=dtype), offsets, *weights_of(144, dtype))
        kernels.add_layer_norm(*rows_of(31, 111, dtype))
        kernels.embed_layer_norm(*tokens_of(31, 111, dtype))
        kernels.gelu_bias(normal(31, 111, dtype=dtype), normal(111, dtype=dtype))
        kernels.packed_attention(normal(count, 3, 2, 32, dtype=dtype), offsets)
    index = torch.tensor([0, 2, 4], device="cuda")
    tokens = torch.arange(count, device="cuda")
    kernels.join_pairs(tokens, offsets, tokens, offsets, index, index, offsets_of([11, 129, 131]), 3, 300)
    for quantised in (False, True):
        matrix = kernels.ItemMatrix(normal(901, 48), quantised)
        matrix.search(normal(3, 48), 12, torch.full((113,), 0x5A, dtype=torch.uint8, device="cuda"))
    kernels.causal_attention(normal(count, 8, 32), 4, offsets)
    for dtype in (torch.float32, torch.bfloat16):
        x, gamma, residual = normal(31, 111, dtype=dtype), normal(111, dtype=dtype), normal(31, 111, dtype=dtype)
        kernels.add_rms_norm(x, gamma, residual)
        kernels.swiglu(x[:, :110])
        kernels.candidate_logits(x, residual, gamma, x[:19], torch.arange(31, device="cuda"))
        kernels.pool_normalise(normal(count, 111, dtype=dtype), offsets)
        table = kernels.rotary_table({"max_position_embeddings": count}, 48, x.device)
        kernels.rotate(normal(count, 3, 48, dtype=dtype), 2, torch.arange(count, device="cuda"), table)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
