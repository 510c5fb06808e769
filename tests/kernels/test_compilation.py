"""Kernels compile to machine code for an A100 and an H100 without either: one case of each kernel."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from endcap_kernels.compilation import ARCHITECTURES
from ragged_inputs import DEVICE

CASES = {
    "margin_mse_loss bf16 weights": {
        "_margin_mse_sums_kernel",
        "_margin_mse_total_kernel",
        "_margin_mse_gradient_kernel",
    },
    "fuse_top_k fp32 all": {"_fuse_top_k_kernel"},
    "margin_scores 768 bf16": {"_margin_scores_kernel"},
    "layer norms 768 bf16": {"_add_layer_norm_kernel", "_embed_layer_norm_kernel"},
    "gelu_bias 3072 bf16": {"_gelu_bias_kernel"},
    "packed_attention 40x64 bf16": {"_packed_attention_kernel"},
    "causal_attention 64x64 bf16": {"_packed_attention_kernel"},
    "scan_top_k 60 fp16": {"_scan_kernel", "_merge_kernel"},
    "join_pairs": {"_join_pairs_kernel"},
    "add_rms_norm 256 bf16": {"_add_rms_norm_kernel"},
    "swiglu 704 bf16": {"_swiglu_kernel"},
    "rotate 64 bf16": {"_rotate_kernel"},
    "candidate_logits 60 of 256 bf16": {"_candidate_logits_kernel"},
    "pool_normalise 384 bf16": {"_pool_normalise_kernel"},
}
SAMPLE = (
    "fuse_top_k fp32 all",
    "margin_scores 768 bf16",
    "causal_attention 64x64 bf16",
    "scan_top_k 60 fp16",
    "join_pairs",
)
"""A kernel of each kind: without matrices, with wgmma, with mma on both; all of them compile under ``--long``."""
USES_TENSOR_CORES = {"_margin_scores_kernel", "_packed_attention_kernel", "_scan_kernel"}
FEW_ROWS = {"_scan_kernel"}
"""wgmma has tiles of 64 rows at least; a search has 16 queries."""


@pytest.mark.parametrize("names", [SAMPLE, pytest.param(tuple(CASES), marks=pytest.mark.long)], ids=["sample", "all"])
def test_kernels_compile_for_both_architectures(names: tuple[str, ...], plain_process: Callable[[str], str]) -> None:
    rows = json.loads(
        plain_process(
            f"import sys; sys.argv = ['compilation', '--json', '--cases', *{list(names)}];"
            "from endcap_kernels.compilation import main; main()"
        )
    )
    assert {(row["kernel"], row["architecture"]) for row in rows} == {
        (kernel, architecture) for name in names for kernel in CASES[name] for architecture in ARCHITECTURES
    }
    for row in rows:
        assert row["spilled"] == 0, row
        matrices = {80: "mma", 90: "mma" if row["kernel"] in FEW_ROWS else "wgmma"}[row["architecture"]]
        expected = matrices if row["kernel"] in USES_TENSOR_CORES else "none"
        assert row["tensor_cores"] == expected, row


def test_unknown_case_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "endcap_kernels.compilation", "--cases", "nothing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--cases: expected some of margin_mse_loss fp32" in done.stderr


@pytest.mark.skipif(DEVICE == "cuda", reason="about a process with interpreted kernels")
def test_an_interpreting_process_cannot_compile() -> None:
    from endcap_kernels.compilation import compile_cases

    with pytest.raises(RuntimeError, match="TRITON_INTERPRET: expected to be unset"):
        compile_cases({})
