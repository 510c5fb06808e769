import pytest
import torch
from endcap_kernels import join_pairs, recorded_launches
from endcap_kernels.join_pairs import _join_pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from ragged_inputs import DEVICE, offsets_of
from torch import Tensor

SEPARATOR = 3


def reference_join_pairs(
    queries: list[list[int]], products: list[list[int]], pairs: list[tuple[int, int]], tokens: int
) -> list[list[int]]:
    """Lists of Python, as a tokenizer would lay out the pairs."""
    rows = [queries[query] + products[product] + [SEPARATOR] for query, product in pairs]
    ids = [token for row in rows for token in row]
    types = [
        place
        for row, (query, _) in zip(rows, pairs, strict=True)
        for place in [0] * len(queries[query]) + [1] * (len(row) - len(queries[query]))
    ]
    positions = [place for row in rows for place in range(len(row))]
    return [column + [0] * (tokens - len(ids)) for column in (ids, types, positions)]


def flat(lists: list[list[int]], dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor([token for row in lists for token in row], dtype=dtype, device=DEVICE)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=3),
    st.lists(st.sampled_from([0, 1, 4, 130]), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=4),
    st.integers(0, 140),
    st.sampled_from([torch.int32, torch.int64]),
)
def test_equals_the_reference(
    query_sizes: list[int],
    product_sizes: list[int],
    chosen: list[tuple[int, int]],
    spare: int,
    dtype: torch.dtype,
) -> None:
    queries = [[2, *range(10, 10 + size), SEPARATOR] for size in query_sizes]
    products = [list(range(100, 100 + size)) for size in product_sizes]
    pairs = [(query % len(queries), product % len(products)) for query, product in chosen]
    lengths = [len(queries[query]) + len(products[product]) + 1 for query, product in pairs]
    tokens = sum(lengths) + spare
    with recorded_launches() as launched:
        result = join_pairs(
            flat(queries, dtype),
            offsets_of([len(query) for query in queries], dtype),
            flat(products, dtype),
            offsets_of([len(product) for product in products], dtype),
            torch.tensor([query for query, _ in pairs], dtype=dtype, device=DEVICE),
            torch.tensor([product for _, product in pairs], dtype=dtype, device=DEVICE),
            offsets_of(lengths, dtype),
            SEPARATOR,
            tokens,
        )
    assert launched == ["_join_pairs_kernel"]
    assert [column.tolist() for column in result] == reference_join_pairs(queries, products, pairs, tokens)


def arguments() -> list[object]:
    tokens, offsets, index = flat([[2, 9, 3]]), offsets_of([3]), torch.tensor([0, 0], device=DEVICE)
    return [tokens, offsets, tokens, offsets, index, index, offsets_of([7, 0]), SEPARATOR, 9]


def test_pairs_of_no_length_are_left_out() -> None:
    result = join_pairs(*arguments())  # type: ignore[arg-type]
    assert result.ids.tolist() == [2, 9, 3, 2, 9, 3, 3, 0, 0]
    assert result.types.tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0]


def test_custom_op_contract() -> None:
    torch.library.opcheck(_join_pairs, tuple(arguments()), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(3), "queries: expected int32 or int64, got float32"),
        (5, torch.zeros(3, dtype=torch.int32, device=DEVICE), r"product: expected shape \[2\], got \[3\]"),
        (6, torch.zeros(2, dtype=torch.int32, device=DEVICE), r"offsets: expected shape \[3\], got \[2\]"),
        (8, -1, "tokens: expected at least 0, got -1"),
    ],
)
def test_wrong_input(place: int, value: object, message: str) -> None:
    given = arguments()
    given[place] = value
    with pytest.raises(ValueError, match=message):
        join_pairs(*given)  # type: ignore[arg-type]
