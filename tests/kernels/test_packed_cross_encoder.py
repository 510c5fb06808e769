"""The packed encoder against Hugging Face's: the same scores, whatever the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from endcap_kernels import PackedCrossEncoder, recorded_launches
from endcap_kernels.bert_checkpoint import bert_weights
from endcap_kernels.pair_batches import block_size, lay_out
from endcap_kernels.token_graphs import bucket, token_bucket, usual_buckets
from hypothesis import given, settings
from hypothesis import strategies as st
from ragged_inputs import DEVICE, offsets_of
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, BertModel

CLS, SEP = 2, 3
VOCABULARY, LONGEST = 60, 64


def config(**changes: object) -> BertConfig:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    rest = {"vocab_size": VOCABULARY, "max_position_embeddings": LONGEST, "num_labels": 1, "initializer_range": 0.3}
    return BertConfig(**{**sizes, **rest, **changes})


def hugging_face(kind: type = BertForSequenceClassification, **changes: object) -> torch.nn.Module:
    torch.manual_seed(5)
    model = kind(config(**changes)).eval()
    for name, parameter in model.named_parameters():  # biases and scales start as 0 and 1, which would hide mistakes
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("LayerNorm.weight") else 0.0, std=0.3)
    return model.to(DEVICE)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return hugging_face()


@pytest.fixture(scope="module")
def packed(model: torch.nn.Module) -> PackedCrossEncoder:
    return PackedCrossEncoder.from_model(model, DEVICE, torch.float32)


def sequences(lengths: list[int], seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(5, VOCABULARY, (length,), generator=generator).to(DEVICE) for length in lengths]
    types = [(torch.arange(length) > length // 2).long().to(DEVICE) for length in lengths]
    return ids, types


@torch.no_grad()
def reference_scores(model: torch.nn.Module, ids: list[Tensor], types: list[Tensor]) -> Tensor:
    """Hugging Face on sequences padded to the longest."""
    padded = [torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) for rows in (ids, types)]
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    return model(input_ids=padded[0], token_type_ids=padded[1], attention_mask=mask).logits[:, 0]


def score(encoder: PackedCrossEncoder, ids: list[Tensor], types: list[Tensor]) -> Tensor:
    return encoder.score(torch.cat(ids), torch.cat(types), offsets_of([len(row) for row in ids]))


def test_scores_equal_hugging_face(model: torch.nn.Module, packed: PackedCrossEncoder) -> None:
    ids, types = sequences([1, 2, 31, LONGEST, 7])
    with recorded_launches() as launched:
        scores = score(packed, ids, types)
    torch.testing.assert_close(scores, reference_scores(model, ids, types), rtol=0, atol=1e-4)
    layer = ["_packed_attention_kernel", "_add_layer_norm_kernel", "_gelu_bias_kernel", "_add_layer_norm_kernel"]
    assert launched == ["_embed_layer_norm_kernel", *layer, *layer, "_margin_scores_kernel"]


@pytest.mark.parametrize("kind", [BertModel, BertForSequenceClassification])
def test_hidden_states_equal_hugging_face(kind: type, tmp_path: Path) -> None:
    model = hugging_face(kind, hidden_size=128, num_attention_heads=2)  # heads of 64
    model.save_pretrained(tmp_path)
    packed = PackedCrossEncoder.from_pretrained(tmp_path, DEVICE, torch.float32)
    ids, types = sequences([3, 20])
    states = packed.hidden_states(torch.cat(ids).int(), torch.cat(types).int(), offsets_of([3, 20], torch.int64))
    encoder = model if kind is BertModel else model.bert
    for row, kinds, part in zip(ids, types, states.split([3, 20]), strict=True):
        with torch.no_grad():
            expected = encoder(input_ids=row[None], token_type_ids=kinds[None]).last_hidden_state[0]
        torch.testing.assert_close(part, expected, rtol=0, atol=1e-4)


def test_names_of_the_first_checkpoints(model: torch.nn.Module, packed: PackedCrossEncoder) -> None:
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in model.state_dict().items()
    }
    weights = bert_weights(model.config.to_dict(), old, torch.device(DEVICE), torch.float32)
    assert torch.equal(weights.layers[1].output_gamma, packed.weights.layers[1].output_gamma)
    assert torch.equal(weights.beta, packed.weights.beta)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_at_most_twice_as_much_as_plain_torch(dtype: torch.dtype) -> None:
    model = hugging_face()
    ids, types = sequences([5, 40, 21, 33, 12, 60], seed=1)
    expected = reference_scores(model, ids, types).double()
    packed = PackedCrossEncoder.from_model(model, DEVICE, dtype)
    result = score(packed, ids, types)
    plain = reference_scores(model.to(dtype), ids, types)
    assert (result - expected).norm() < 2 * (plain - expected).norm()


def test_a_pair_alone_is_the_pair_in_any_batch(packed: PackedCrossEncoder) -> None:
    ids, types = sequences([9, 30, 4, 17])
    together = score(packed, ids, types)
    alone = torch.cat([score(packed, ids[row : row + 1], types[row : row + 1]) for row in range(4)])
    # The matrix library may choose another order of sums for another number of rows; the kernels do not.
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert torch.equal(together, score(packed, ids, types))


def test_gelu_in_the_product_is_off_and_gives_nearly_the_same(packed: PackedCrossEncoder) -> None:
    ids, types = sequences([9, 30])
    other = PackedCrossEncoder(packed.weights, gelu_in_product=True)
    with recorded_launches() as launched:
        scores = score(other, ids, types)
    assert "_gelu_bias_kernel" not in launched
    torch.testing.assert_close(scores, score(packed, ids, types), rtol=0, atol=2e-2)


def test_empty_sequences_and_none(packed: PackedCrossEncoder) -> None:
    ids, types = sequences([6])
    result = packed.score(ids[0], types[0], offsets_of([0, 6, 0]))
    assert result.isnan().tolist() == [True, False, True]
    torch.testing.assert_close(result[1:2], score(packed, ids, types), rtol=0, atol=1e-5)
    assert packed.score(ids[0][:0], types[0][:0], offsets_of([])).shape == (0,)
    assert packed.hidden_states(ids[0][:0], types[0][:0], offsets_of([0])).shape == (0, 64)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.data())
def test_joined_pairs_score_like_joined_lists(query_sizes: list[int], data: st.DataObject) -> None:
    model = hugging_face()
    packed = PackedCrossEncoder.from_model(model, DEVICE, torch.float32)
    rng = np.random.default_rng(2)
    queries = [np.array([CLS, *rng.integers(5, VOCABULARY, size), SEP]) for size in query_sizes]
    products = [rng.integers(5, VOCABULARY, size) for size in (3, 0, 12, 7)]
    offsets = np.cumsum([0, *map(len, products)])
    packed.load_products(np.concatenate(products), offsets, SEP)
    pairs = st.lists(st.tuples(st.integers(0, len(queries) - 1), st.integers(0, 3)), min_size=1, max_size=6)
    chosen = data.draw(pairs)
    query, product = (np.array(column) for column in zip(*chosen, strict=True))
    result = packed.score_products(queries, query, product)
    ids = [torch.tensor([*queries[q], *products[p], SEP], device=DEVICE) for q, p in chosen]
    types = [
        (torch.arange(len(row), device=DEVICE) >= len(queries[q])).long()
        for row, (q, _) in zip(ids, chosen, strict=True)
    ]
    assert result.device.type == "cpu"
    torch.testing.assert_close(result.to(DEVICE), reference_scores(model, ids, types), rtol=0, atol=1e-4)


def test_room_for_more_pairs_and_tokens_changes_nothing(packed: PackedCrossEncoder) -> None:
    """What a CUDA graph computes: a bucket of tokens and pairs, with a request that does not fill it."""
    packed.load_products(np.arange(5, 25), np.array([0, 4, 4, 20]), SEP)
    queries = [np.array([CLS, 9, 8, SEP]), np.array([CLS, 7, SEP])]
    query, product = np.array([1, 1, 0]), np.array([2, 0, 1])
    expected = packed.score_products(queries, query, product)
    lengths = packed.pair_lengths(queries, query, product)
    room, tokens = bucket(3, int(lengths.sum()))
    batch = lay_out(queries, query, product, lengths, room, tokens, torch.float32)
    block = torch.zeros(block_size(room, tokens, torch.float32), dtype=torch.int32, device=DEVICE)
    block[: len(batch)] = torch.from_numpy(batch)
    with torch.no_grad():
        scores = packed._score_block(block, room, tokens)
    torch.testing.assert_close(scores[:3].cpu(), expected, rtol=0, atol=1e-5)
    assert scores[3:].isnan().all()


def test_a_block_of_zeros_is_pairs_without_tokens(packed: PackedCrossEncoder) -> None:
    """What a CUDA graph is captured with."""
    packed.load_products(np.arange(5, 25), np.array([0, 20]), SEP)
    with torch.no_grad():
        block = torch.zeros(block_size(8, 100, torch.float32), dtype=torch.int32, device=DEVICE)
        scores = packed._score_block(block, 8, 100)
    assert scores.isnan().tolist() == [True] * 8


def test_warming_up_is_for_gpus(packed: PackedCrossEncoder) -> None:
    packed.load_products(np.arange(5, 25), np.array([0, 20]), SEP)
    assert packed.warm_up(300) == (0 if DEVICE == "cpu" else len(usual_buckets(300)))


def test_usual_requests_have_their_buckets() -> None:
    rooms = usual_buckets(16384)
    assert len(rooms) == len(set(rooms)) == 25
    for pairs in (10, 100, 400):
        for mean in (25, 40, 60):
            if pairs * mean <= 16384:
                assert bucket(pairs, pairs * mean)[1] in rooms


def test_two_requests_can_be_in_flight(packed: PackedCrossEncoder) -> None:
    packed.load_products(np.arange(5, 25), np.array([0, 4, 4, 20]), SEP)
    queries, product = [np.array([CLS, 9, 8, SEP])], np.array([0, 1, 2])
    waits = [packed.start_products(queries, np.zeros(3, np.int64), product[order]) for order in ([0, 1, 2], [2, 1, 0])]
    first, second = (wait() for wait in waits)
    torch.testing.assert_close(first, second.flip(0), rtol=0, atol=1e-5)


def test_no_pairs(packed: PackedCrossEncoder) -> None:
    packed.load_products(np.arange(5, 9), np.array([0, 4]), SEP)
    nothing = np.zeros(0, np.int64)
    assert packed.score_products([], nothing, nothing).shape == (0,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act: expected gelu, got 'relu'"),
        ({"hidden_size": 48}, "expected heads of 32 or 64, got hidden_size 48 for 2 heads"),
    ],
)
def test_other_models_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PackedCrossEncoder.from_model(hugging_face(**changes), DEVICE)


def test_a_head_that_does_not_score_is_refused() -> None:
    ids, types = sequences([4])
    with pytest.raises(ValueError, match="expected one label to score with, got 3"):
        score(PackedCrossEncoder.from_model(hugging_face(num_labels=3), DEVICE), ids, types)
    with pytest.raises(ValueError, match="expected a pooler and a classifier to score with"):
        score(PackedCrossEncoder.from_model(hugging_face(BertModel), DEVICE), ids, types)


def test_missing_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a Hugging Face checkpoint, found none"):
        PackedCrossEncoder.from_pretrained(tmp_path)
    config().save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: expected the weights"):
        PackedCrossEncoder.from_pretrained(tmp_path)


def test_wrong_requests(packed: PackedCrossEncoder) -> None:
    packed.load_products(np.arange(5, 5 + 62), np.array([0, 2, 62]), SEP)
    query, product = np.array([0, 0]), np.array([0, 1])
    with pytest.raises(ValueError, match=r"product: expected numbers in 0\.\.1, got 2"):
        packed.score_products([np.array([CLS, SEP])], query, product + 1)
    with pytest.raises(ValueError, match=r"query: expected numbers in 0\.\.0, got 1"):
        packed.score_products([np.array([CLS, SEP])], query + 1, product)
    with pytest.raises(ValueError, match=r"pair 1: expected at most 64 tokens, got 65 \(query 0, product 1\)"):
        packed.score_products([np.array([CLS, 7, 8, SEP])], query, product)
    with pytest.raises(ValueError, match=r"one shape \[n\], got \[1\], \[2\]"):
        packed.score_products([np.array([CLS, SEP])], query[:1], product)
    with pytest.raises(ValueError, match="offsets: expected to end with 3"):
        packed.load_products(np.arange(3), np.array([0, 2]), SEP)


@pytest.mark.skipif(DEVICE == "cuda", reason="what stands in a tensor on a GPU is not looked at")
def test_a_sequence_longer_than_the_positions_is_refused(packed: PackedCrossEncoder) -> None:
    ids, types = sequences([LONGEST + 1])
    with pytest.raises(ValueError, match="expected sequences of at most 64 tokens, got 65"):
        score(packed, ids, types)


@given(st.integers(1, 100_000), st.integers(1, 1000))
def test_buckets_hold_what_they_are_for(count: int, sequences: int) -> None:
    tokens = token_bucket(count)
    assert tokens >= count
    assert tokens % 64 == 0
    assert tokens <= max(256, 1.25 * count)
    assert token_bucket(tokens) == tokens
    room, most = bucket(sequences, count)
    assert room >= sequences
    assert most >= tokens
    assert bucket(room, most) == (room, most)
