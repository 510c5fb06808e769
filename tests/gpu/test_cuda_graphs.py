"""The packed encoder as it serves: CUDA graphs over buckets, in bfloat16, at BERT-base's size."""

import numpy as np
import pytest
import torch
from endcap_kernels import PackedCrossEncoder
from test_packed_cross_encoder import reference_scores
from transformers import BertConfig, BertForSequenceClassification

CLS, SEP = 101, 102


@pytest.fixture(scope="module")
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(num_labels=1, initializer_range=0.05)).eval().to("cuda")


def request(pairs: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    queries = [np.array([CLS, *rng.integers(1000, 30_000, rng.integers(1, 9)), SEP]) for _ in range(3)]
    return queries, [rng.integers(1000, 30_000, rng.integers(1, 90)) for _ in range(pairs)]


def scored(encoder: PackedCrossEncoder, queries: list[np.ndarray], products: list[np.ndarray]) -> torch.Tensor:
    query = np.arange(len(products)) % 3
    return encoder.score_products(queries, query, np.arange(len(products))).clone()


def load(encoder: PackedCrossEncoder, products: list[np.ndarray]) -> None:
    encoder.load_products(np.concatenate(products), np.cumsum([0, *map(len, products)]), SEP)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_give_what_hugging_face_gives(model: BertForSequenceClassification, dtype: torch.dtype) -> None:
    queries, products = request(100, seed=1)
    encoder = PackedCrossEncoder.from_model(model, "cuda", dtype)
    load(encoder, products)
    scores = scored(encoder, queries, products)
    ids = [torch.tensor([*queries[n % 3], *product, SEP], device="cuda") for n, product in enumerate(products)]
    types = [(torch.arange(len(row), device="cuda") >= len(queries[n % 3])).long() for n, row in enumerate(ids)]
    expected = reference_scores(model.float(), ids, types).cpu()
    if dtype == torch.float32:
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)
        return
    plain = reference_scores(model.to(dtype), ids, types).float().cpu()
    model.float()
    assert (scores - expected).norm() < 2 * (plain - expected).norm()


def test_requests_of_many_sizes_do_not_disturb_each_other(
    model: BertForSequenceClassification,
) -> None:
    encoder = PackedCrossEncoder.from_model(model, "cuda", torch.bfloat16)
    queries, products = request(120, seed=2)
    load(encoder, products)
    prepared = encoder.warm_up(1024)
    assert prepared > 4
    everything = scored(encoder, queries, products)
    for count in (1, 7, 8, 9, 50, 51, 120, 3):
        part = scored(encoder, queries, products[:count])
        # The matrix library may choose other sums for another number of rows.
        torch.testing.assert_close(part, everything[:count], rtol=0, atol=0.05)
    assert torch.equal(everything, scored(encoder, queries, products))
    assert encoder._graphs is not None
    assert len(encoder._graphs) <= prepared + 8
    waits = [encoder.start_products(queries, np.arange(n) % 3, np.arange(n)) for n in (50, 120)]
    for wait, count in zip(waits, (50, 120), strict=True):  # two in flight
        torch.testing.assert_close(wait(), everything[:count], rtol=0, atol=0.05)
