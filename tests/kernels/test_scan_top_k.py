"""Exact search against FAISS: the same rows and similarities, whatever is allowed."""

import faiss
import numpy as np
import pytest
import torch
from endcap_kernels import ItemMatrix, recorded_launches, scan_top_k
from endcap_kernels.scan_top_k import WIDEST, _scan_top_k
from ragged_inputs import DEVICE, normal
from torch import Tensor


def unit(rows: int, size: int, seed: int) -> Tensor:
    return torch.nn.functional.normalize(normal(rows, size, seed=seed)).half()


def bitmap(allowed: np.ndarray) -> Tensor:
    return torch.from_numpy(np.packbits(allowed, bitorder="little")).to(DEVICE)


def searched(items: Tensor, queries: Tensor, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """FAISS on the float16 rows."""
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items.float().cpu().numpy())
    if allowed is None:
        scores, rows = index.search(queries.cpu().numpy(), k)
    else:
        selector = faiss.IDSelectorBatch(np.flatnonzero(allowed))
        scores, rows = index.search(queries.cpu().numpy(), k, params=faiss.SearchParameters(sel=selector))
    return rows, np.where(rows < 0, np.nan, scores)


@pytest.mark.parametrize("quantised", [False, True], ids=["fp16", "int8"])
@pytest.mark.parametrize(
    ("rows", "k", "share"),
    [(600, 12, 1.0), (40, 50, 0.5), (300, 5, 0.01), pytest.param(1300, 100, 0.3, marks=pytest.mark.long)],
)
def test_same_answers_as_faiss(rows: int, k: int, share: float, quantised: bool) -> None:
    items, queries = unit(rows, 48, 1), unit(3, 48, 2).float()
    allowed = None if share == 1 else np.random.default_rng(3).random(rows) < share
    with recorded_launches() as launched:
        found = ItemMatrix(items, quantised).search(queries, k, None if allowed is None else bitmap(allowed))
    expected_rows, expected_scores = searched(items, queries, k, allowed)
    assert launched == (["_scan_kernel", "_merge_kernel"] if k < 64 or not quantised else [])
    np.testing.assert_array_equal(found.row.cpu().numpy(), expected_rows)
    np.testing.assert_allclose(found.score.cpu().numpy(), expected_scores, atol=1e-6)


def test_equal_scores_keep_the_order_of_rows_in_every_batch() -> None:
    items = unit(7, 16, 1).repeat(30, 1)
    queries = unit(18, 16, 2)
    together = scan_top_k(queries, items, 64)
    assert torch.equal(together.row, scan_top_k(queries, items, 64).row)
    first = together.row[0]
    assert (first[:-1] < first[1:])[together.score[0][:-1] == together.score[0][1:]].all()
    alone = scan_top_k(queries[17:], items, 64)
    assert torch.equal(alone.row[0], together.row[17])
    assert torch.equal(alone.score[0], together.score[17])


def test_negative_scores_and_nan() -> None:
    items = -unit(70, 16, 1).abs()
    items[5] = torch.nan
    queries = unit(1, 16, 2).abs()
    found = scan_top_k(queries, items, 70)
    assert found.row[0, -1] == -1
    assert 5 not in found.row[0].tolist()
    assert (found.score[0, :69].diff() <= 0).all()


def test_more_than_a_program_keeps_and_nothing() -> None:
    items, queries = unit(400, 16, 1), unit(2, 16, 2)
    with recorded_launches() as launched:
        many = scan_top_k(queries, items, WIDEST + 1)
    assert launched == []
    few = scan_top_k(queries, items, 20)
    assert torch.equal(many.row[:, :20], few.row)
    none = ItemMatrix(items[:0]).search(queries.float(), 3)
    assert none.row.tolist() == [[-1] * 3] * 2
    assert none.score.isnan().all()
    assert ItemMatrix(items).search(queries[:0].float(), 3).row.shape == (0, 3)


def test_custom_op_contract() -> None:
    arguments = (unit(2, 16, 1), unit(9, 16, 2), 3, None, None)
    torch.library.opcheck(_scan_top_k, arguments, test_utils=("test_schema", "test_faketensor"))


def test_wrong_input() -> None:
    items, queries = unit(9, 16, 1), unit(2, 16, 2)
    with pytest.raises(ValueError, match="queries: expected D to be a multiple of 16, got 8"):
        scan_top_k(queries[:, :8], items[:, :8], 3)
    with pytest.raises(ValueError, match=r"allowed: expected shape \[2\], got \[9\]"):
        scan_top_k(queries, items, 3, torch.ones(9, dtype=torch.uint8, device=DEVICE))
    with pytest.raises(ValueError, match="scales: expected with int8 items only"):
        scan_top_k(queries, items, 3, None, torch.ones(9, device=DEVICE))
    with pytest.raises(ValueError, match="k: expected at least 1, got 0"):
        scan_top_k(queries, items, 0)
