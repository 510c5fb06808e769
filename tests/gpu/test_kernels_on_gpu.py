"""What only a GPU shows: tile sizes at real sizes, tensor cores, races, streams, batch invariance across tilings."""

import pytest
import torch
from endcap_kernels import (
    add_layer_norm,
    fuse_top_k,
    gelu_bias,
    margin_mse_loss,
    margin_scores,
    packed_attention,
    recorded_launches,
)
from endcap_kernels.margin_scores import MANY_ROWS
from endcap_kernels.packed_attention import LONG
from ragged_inputs import normal, offsets_of, relative_error
from references import reference_margin_mse_loss, reference_margin_scores, reference_packed_attention, weights_of

ACCURATE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("dtype", list(ACCURATE))
@pytest.mark.parametrize(("rows", "size"), [(1, 768), (100, 384), (1000, 768), (333, 1024), (10_000, 768)])
def test_margin_scores_at_its_sizes(rows: int, size: int, dtype: torch.dtype) -> None:
    hidden, offsets, weights = normal(rows, size, dtype=dtype), offsets_of([1] * rows), weights_of(size, dtype)
    expected = reference_margin_scores(hidden.double(), offsets, *(weight.double() for weight in weights))
    with recorded_launches() as launched:
        scores = margin_scores(hidden, offsets, *weights)
    assert launched == ["_margin_scores_kernel"]
    assert relative_error(scores, expected) < ACCURATE[dtype]


@pytest.mark.parametrize("dtype", list(ACCURATE))
def test_margin_scores_do_not_depend_on_the_tiling(dtype: torch.dtype) -> None:
    """Below and above MANY_ROWS programs take 64 and 128 rows; a row's score is the same to the last bit."""
    rows = MANY_ROWS + 77
    hidden, weights = normal(rows, 768, dtype=dtype), weights_of(768, dtype)
    many = margin_scores(hidden, offsets_of([1] * rows), *weights)
    for start, end in ((0, 1), (63, 200), (4000, rows)):
        assert torch.equal(many[start:end], margin_scores(hidden[start:end], offsets_of([1] * (end - start)), *weights))


def test_margin_scores_many_times_on_several_streams() -> None:
    """The counters of a launch are zero again after it, and streams do not share them."""
    hidden, offsets, weights = (
        normal(300, 768, dtype=torch.bfloat16),
        offsets_of([1] * 300),
        weights_of(768, torch.bfloat16),
    )
    expected = margin_scores(hidden, offsets, *weights)
    streams = [torch.cuda.Stream() for _ in range(4)]
    torch.cuda.synchronize()
    results = []
    for _ in range(50):
        for stream in streams:
            with torch.cuda.stream(stream):
                results.append(margin_scores(hidden, offsets, *weights))
    torch.cuda.synchronize()
    assert all(torch.equal(result, expected) for result in results)


def test_margin_scores_in_a_graph_that_is_replayed_elsewhere() -> None:
    hidden, offsets, weights = (
        normal(300, 768, dtype=torch.bfloat16),
        offsets_of([1] * 300),
        weights_of(768, torch.bfloat16),
    )
    expected = margin_scores(hidden, offsets, *weights)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        scores = margin_scores(hidden, offsets, *weights)
    for stream in (torch.cuda.Stream(), torch.cuda.Stream()):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            scores.fill_(torch.nan)
            graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(scores, expected)


@pytest.mark.parametrize("dtype", list(ACCURATE))
@pytest.mark.parametrize("size", [32, 64])
def test_packed_attention_at_its_sizes(size: int, dtype: torch.dtype) -> None:
    for lengths in ([512, 1, 300, 64], [40] * 100, [128] * 16):
        qkv, offsets = normal(sum(lengths), 3, 12, size, dtype=dtype), offsets_of(lengths)
        expected = reference_packed_attention(qkv.double(), offsets, max(lengths))
        assert relative_error(packed_attention(qkv, offsets), expected) < ACCURATE[dtype]


def test_packed_attention_does_not_depend_on_the_tiling() -> None:
    """Above a mean length of LONG, programs take 128 queries; a sequence's result is the same to the last bit."""
    lengths = [4 * LONG] * 4 + [37]
    qkv = normal(sum(lengths), 3, 12, 64, dtype=torch.bfloat16)
    together = packed_attention(qkv, offsets_of(lengths))
    assert torch.equal(together[-37:], packed_attention(qkv[-37:], offsets_of([37])))
    short = torch.cat([qkv, normal(500, 3, 12, 64, dtype=torch.bfloat16)])
    assert torch.equal(together, packed_attention(short, offsets_of([*lengths, *[1] * 500]))[:-500])


def test_ragged_kernels_at_their_sizes() -> None:
    sizes = torch.randint(1, 200, (3000,), generator=torch.Generator().manual_seed(3)).tolist()
    scores, targets, offsets = normal(sum(sizes)), normal(sum(sizes), seed=1), offsets_of(sizes)
    loss = margin_mse_loss(scores, targets, offsets)
    torch.testing.assert_close(
        loss, reference_margin_mse_loss(scores.double(), targets.double(), offsets).float(), rtol=1e-5, atol=0
    )
    assert all(torch.equal(loss, margin_mse_loss(scores, targets, offsets)) for _ in range(20))
    top = fuse_top_k(scores, offsets, 10, torch.tensor([1.0, 0.0], device="cuda"))
    first = [int(part.argmax()) for part in scores.split(sizes)]
    assert torch.equal(top.row[:, 0] - offsets[:-1], torch.tensor(first, device="cuda"))


def test_ragged_kernels_in_a_graph() -> None:
    """Nothing in them waits for the GPU to learn the sizes of groups."""
    scores, offsets = normal(4000), offsets_of([40] * 100)
    weights = torch.ones(2, device="cuda")
    expected = fuse_top_k(scores, offsets, 12, weights)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = fuse_top_k(scores, offsets, 12, weights)
    graph.replay()
    for one, two in zip(result, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)


def test_more_than_two_to_the_31_elements() -> None:
    rows, size = 2**31 // 4096 + 5, 4096
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB")
    x, bias = torch.zeros(rows, size, dtype=torch.bfloat16, device="cuda"), normal(size, dtype=torch.bfloat16)
    x[-1] = 1
    tail = gelu_bias(x, bias)[-1:]
    assert torch.equal(tail, gelu_bias(x[-1:], bias))
    one = torch.ones(size, dtype=torch.bfloat16, device="cuda")
    assert torch.equal(add_layer_norm(x, x, one, bias, one)[-1:], add_layer_norm(x[-1:], x[-1:], one, bias, one))


def test_torch_compile_takes_them_as_one_node() -> None:
    scores, offsets, weights = normal(300), offsets_of([100] * 3), torch.ones(2, device="cuda")

    @torch.compile(fullgraph=True)
    def both(scores: torch.Tensor) -> torch.Tensor:
        return fuse_top_k(2 * scores, offsets, 12, weights).score + 1

    torch.testing.assert_close(both(scores), fuse_top_k(2 * scores, offsets, 12, weights).score + 1)
