"""Texts to vectors on the packed encoder, against Hugging Face's BERT with plain pooling."""

from pathlib import Path

import numpy as np
import pytest
import torch
from endcap_kernels import PackedBiEncoder, pool_normalise, recorded_launches
from endcap_kernels.pool_normalise import _pool_normalise
from ragged_inputs import DEVICE, normal, offsets_of, relative_error
from references import reference_pool_normalise
from transformers import BertConfig, BertModel

VOCABULARY, LONGEST = 60, 40


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(5)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    shape = BertConfig(**sizes, vocab_size=VOCABULARY, max_position_embeddings=LONGEST, initializer_range=0.3)
    return BertModel(shape).eval().to(DEVICE)


def texts(lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, VOCABULARY, length) for length in lengths]


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize(("sizes", "width"), [([1, 70, 0, 5], 384), ([3], 111), ([0, 0, 40], 16)])
def test_pooling_equals_the_reference(sizes: list[int], width: int, mean: bool) -> None:
    hidden, offsets = normal(sum(sizes) + 2, width), offsets_of(sizes)
    with recorded_launches() as launched:
        vectors = pool_normalise(hidden, offsets, mean)
    assert launched == ["_pool_normalise_kernel"]
    expected = reference_pool_normalise(hidden[: sum(sizes)].double(), offsets, mean).float()
    known = torch.tensor(sizes) > 0
    torch.testing.assert_close(vectors[known], expected[known], rtol=1e-5, atol=1e-6)
    assert vectors[~known].isnan().all()


def test_pooling_in_half_precision_of_zeros_and_in_any_batch() -> None:
    hidden, offsets = normal(50, 96, dtype=torch.bfloat16), offsets_of([20, 30])
    vectors = pool_normalise(hidden, offsets)
    assert relative_error(vectors, reference_pool_normalise(hidden.double(), offsets)) < 1e-5
    assert torch.equal(pool_normalise(hidden[20:], offsets_of([30])), vectors[1:])
    assert pool_normalise(torch.zeros_like(hidden), offsets).abs().max() == 0


def test_pooling_of_a_plain_process_contract_and_wrong_input() -> None:
    hidden, offsets = normal(9, 32), offsets_of([4, 5])
    torch.library.opcheck(_pool_normalise, (hidden, offsets, True), test_utils=("test_schema", "test_faketensor"))
    with pytest.raises(ValueError, match=r"offsets: expected to rise from 0 to 9, got 0 to 10"):
        pool_normalise(hidden, offsets_of([4, 6]))
    with pytest.raises(ValueError, match="hidden: expected float32 or bfloat16 or float16, got float64"):
        pool_normalise(hidden.double(), offsets)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_equal_hugging_face(model: torch.nn.Module, pooling: str, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    packed = PackedBiEncoder.from_pretrained(tmp_path, pooling, DEVICE, torch.float32)
    batch = texts([1, LONGEST, 7])
    vectors = packed.encode(batch)
    assert vectors.shape == (3, packed.dimension)
    for ids, vector in zip(batch, vectors, strict=True):
        with torch.no_grad():
            states = model(input_ids=torch.from_numpy(ids)[None].to(DEVICE)).last_hidden_state[0].cpu()
        expected = torch.nn.functional.normalize(states.mean(0) if pooling == "mean" else states[0], dim=0)
        torch.testing.assert_close(vector, expected, rtol=0, atol=1e-4)
    alone = packed.encode(batch[2:])
    torch.testing.assert_close(alone, vectors[2:], rtol=0, atol=1e-5)


def test_empty_and_wrong_texts(model: torch.nn.Module) -> None:
    packed = PackedBiEncoder.from_model(model, "mean", DEVICE, torch.float32)
    assert packed.encode([]).shape == (0, 64)
    assert packed.encode(texts([0, 3])).isnan().any(1).tolist() == [True, False]
    with pytest.raises(ValueError, match="sequence 0: expected at most 40 tokens, got 41"):
        packed.encode(texts([41]))
    with pytest.raises(ValueError, match="pooling: expected mean or cls, got 'max'"):
        PackedBiEncoder.from_model(model, "max")
