"""The packed ranker against Hugging Face's Llama: the same logits of candidates, whatever the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from endcap_kernels import PackedRanker, recorded_launches
from endcap_kernels.sequence_batches import SequencePasses
from ragged_inputs import DEVICE
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config

LONG = pytest.mark.long
VOCABULARY, LONGEST = 60, 70
NUMBERS = np.array([7, 3, 50, 8, 21])
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def config(kind: type[PretrainedConfig] = LlamaConfig, **changes: object) -> PretrainedConfig:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, **GROUPED}
    rest = {"vocab_size": VOCABULARY, "max_position_embeddings": LONGEST, "initializer_range": 0.2}
    return kind(**{**sizes, **rest, "rms_norm_eps": 1e-5, **changes})


def hugging_face(shape: PretrainedConfig) -> torch.nn.Module:
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(shape).eval()
    for name, parameter in model.named_parameters():  # biases and scales start as 0 and 1, which would hide mistakes
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.3)
    return model.to(DEVICE)


def prompts(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, length) for length in lengths]


@torch.no_grad()
def reference_logits(model: torch.nn.Module, texts: list[np.ndarray], counts: list[int]) -> np.ndarray:
    """Hugging Face, a prompt at a time."""
    result = np.full((len(texts), len(NUMBERS)), np.nan, np.float32)
    for row, (text, count) in enumerate(zip(texts, counts, strict=True)):
        logits = model(input_ids=torch.from_numpy(text)[None].to(DEVICE)).logits[0, -1].float().cpu().numpy()
        result[row, :count] = logits[NUMBERS[:count]]
    return result


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return hugging_face(config())


@pytest.fixture(scope="module")
def ranker(model: torch.nn.Module) -> PackedRanker:
    return PackedRanker.from_model(model, NUMBERS, DEVICE, torch.float32)


def test_logits_and_order_equal_hugging_face(model: torch.nn.Module, ranker: PackedRanker) -> None:
    texts, counts = prompts([1, 9, LONGEST]), [5, 0, 4]
    with recorded_launches() as launched:
        ranked = ranker.rank(texts, np.array(counts))
    expected = reference_logits(model, texts, counts)
    np.testing.assert_allclose(ranked.logit, expected, rtol=0, atol=1e-4)
    for order, logits, count in zip(ranked.order, expected, counts, strict=True):
        assert order[:count].tolist() == np.argsort(-logits[:count], kind="stable").tolist()
        assert (order[count:] == -1).all()
    layer = ["_rotate_kernel", "_packed_attention_kernel", "_add_rms_norm_kernel", "_swiglu_kernel"]
    assert launched == [
        "_add_rms_norm_kernel", *layer, "_add_rms_norm_kernel", *layer,
        "_candidate_logits_kernel", "_fuse_top_k_kernel",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(config(head_dim=48, num_key_value_heads=4, num_hidden_layers=1), id="heads of 48"),
        pytest.param(config(rope_parameters=LLAMA3, num_hidden_layers=1), id="llama3 positions"),
        pytest.param(config(tie_word_embeddings=True, num_hidden_layers=1), id="tied embeddings"),
        pytest.param(
            config(Qwen2Config, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1), id="qwen2"
        ),
        pytest.param(
            config(MistralConfig, sliding_window=None, num_hidden_layers=1), id="mistral", marks=pytest.mark.long
        ),
    ],
)
def test_checkpoints_of_other_shapes(shape: PretrainedConfig, tmp_path: Path) -> None:
    model = hugging_face(shape)
    model.save_pretrained(tmp_path)
    ranker = PackedRanker.from_pretrained(tmp_path, NUMBERS, DEVICE, torch.float32)
    texts, counts = prompts([40, 3]), [5, 3]
    ranked = ranker.rank(texts, np.array(counts))
    np.testing.assert_allclose(ranked.logit, reference_logits(model, texts, counts), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=LONG)])
def test_half_precision_errs_at_most_twice_as_much_as_plain_torch(dtype: torch.dtype) -> None:
    model = hugging_face(config())
    texts, counts = prompts([5, 30, 12], seed=1), [5] * 3
    expected = reference_logits(model, texts, counts)
    ranked = PackedRanker.from_model(model, NUMBERS, DEVICE, dtype).rank(texts, np.array(counts))
    plain = reference_logits(model.to(dtype), texts, counts)
    assert np.linalg.norm(ranked.logit - expected) < 2 * np.linalg.norm(plain - expected)


def test_a_prompt_alone_is_the_prompt_in_any_batch(ranker: PackedRanker) -> None:
    texts, counts = prompts([9, 66, 4]), np.array([5, 2, 4])
    together = ranker.rank(texts, counts)
    for row in range(3):
        alone = ranker.rank(texts[row : row + 1], counts[row : row + 1])
        # The matrix library may choose another order of sums for another number of rows; the kernels do not.
        np.testing.assert_allclose(alone.logit[0], together.logit[row], rtol=0, atol=1e-5)
        assert alone.order[0].tolist() == together.order[row].tolist()
    again = ranker.rank(texts, counts)
    assert again.logit.tobytes() == together.logit.tobytes()


def test_a_block_with_room_for_more_gives_the_same(ranker: PackedRanker) -> None:
    """The layout of a CUDA graph's bucket: sequences and tokens to spare."""
    texts, counts = prompts([9, 30]), np.array([5, 2])
    lengths = np.array([len(text) for text in texts])
    passes: SequencePasses = ranker._passes
    block = passes._lay_out(lengths, np.concatenate(texts), counts, 6, 64)
    assert len(block) == passes._sizes_sum(6, 64)
    with torch.no_grad():
        result = passes._run(torch.from_numpy(block).to(DEVICE), 6, 64).cpu()
    ranked = ranker.rank(texts, counts)
    assert result[:2, 0].tolist() == ranked.order.tolist()
    np.testing.assert_allclose(result[:2, 1].numpy().view(np.float32), ranked.logit, rtol=0, atol=1e-5)
    assert (result[2:, 0] == -1).all()
    with torch.no_grad():  # what a graph is captured with
        nothing = passes._run(torch.zeros(len(block), dtype=torch.int32, device=DEVICE), 6, 64)
    assert (nothing[:, 0] == -1).all()


def test_no_prompts_and_equal_candidates(ranker: PackedRanker, model: torch.nn.Module) -> None:
    assert ranker.rank([], np.zeros(0, int)).order.shape == (0, 5)
    same = PackedRanker.from_model(model, [4, 4, 4], DEVICE, torch.float32)
    assert same.rank(prompts([8]), np.array([3])).order.tolist() == [[0, 1, 2]]
    assert ranker.warm_up(4096) == 0 if DEVICE == "cpu" else True


def test_wrong_input(ranker: PackedRanker, model: torch.nn.Module, tmp_path: Path) -> None:
    for texts, counts, message in (
        (prompts([3]), [6], r"counts: expected 0\.\.5 candidates, got 6"),
        (prompts([3]), [1, 1], "counts: expected one for each of 1 prompts"),
        (prompts([3, 0]), [1, 1], "prompt 1: expected at least one token, got none"),
        (prompts([3, 71]), [1, 1], "sequence 1: expected at most 70 tokens, got 71; cut the text"),
        ([np.array([60])], [1], r"sequences: expected token ids in 0\.\.59, got 60"),
    ):
        with pytest.raises(ValueError, match=message):
            ranker.rank(texts, np.array(counts))
    with pytest.raises(ValueError, match=r"numbers: expected token ids in 0\.\.59"):
        PackedRanker(ranker.weights, [60])
    for changes, message in (
        ({"hidden_act": "gelu"}, "hidden_act: expected silu, got 'gelu'"),
        ({"attention_bias": True}, "attention_bias: expected False, got True"),
        ({"head_dim": 136}, "expected an even head size up to 128"),
    ):
        shape = config(**changes)
        with pytest.raises(ValueError, match=message):
            PackedRanker.from_model(type("Model", (), {"config": shape, "state_dict": lambda self: {}})(), NUMBERS)
    with pytest.raises(FileNotFoundError, match=r"config\.json: expected a Hugging Face checkpoint"):
        PackedRanker.from_pretrained(tmp_path, NUMBERS)
