import importlib.util
from pathlib import Path

import pytest
from endcap_builders.export.tensorrt import TOKEN_BUDGET, compile_engine, require_tensorrt, shape_ranges
from endcap_builders.step import BuildContext, BuildError
from endcap_builders.steps import bi_encoder, cross_encoder
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

without_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is not None, reason="about machines that lack TensorRT"
)


@given(longest=st.integers(1, 512), width=st.integers(1, 64), rows=st.integers(1, TOKEN_BUDGET))
def test_ranges_cover_every_micro_batch(longest: int, width: int, rows: int) -> None:
    width = min(8 * width, -(-longest // 8) * 8)
    rows = min(rows, TOKEN_BUDGET // max(width, min(32, -(-longest // 8) * 8)))
    first = next(shapes for shapes in shape_ranges(longest) if width <= shapes.max[1])
    assert rows <= first.max[0]
    for shapes in shape_ranges(longest):
        for least, best, most in zip(shapes.min, shapes.opt, shapes.max, strict=True):
            assert 1 <= least <= best <= most
        assert shapes.max[0] * shapes.max[1] <= 2 * TOKEN_BUDGET


def test_ranges_of_a_usual_cross_encoder() -> None:
    assert [shapes.max for shapes in shape_ranges(83)] == [(512, 32), (409, 64), (227, 88)]
    assert [shapes.max for shapes in shape_ranges(16)] == [(1024, 16)]


def test_sequences_longer_than_the_budget_are_refused() -> None:
    with pytest.raises(ValueError, match=r"longest: expected 1\.\.64 tokens .*, got 72"):
        shape_ranges(70, token_budget=64)


@without_tensorrt
def test_missing_tensorrt_is_one_sentence(tmp_path: Path) -> None:
    message = r"--profile gpu: expected the packages tensorrt and polygraphy, found no tensorrt.*docs/gpu\.md"
    with pytest.raises(BuildError, match=message):
        require_tensorrt()
    with pytest.raises(BuildError, match=message):
        compile_engine(tmp_path / "model.onnx", tmp_path / "model.plan", ("input_ids",), 64)
    assert not (tmp_path / "model.plan").exists()


@without_tensorrt
@pytest.mark.parametrize("step", [bi_encoder.STEP, cross_encoder.STEP])
def test_gpu_steps_refuse_before_they_work(tmp_path: Path, step: object) -> None:
    context = BuildContext(
        build=tmp_path,
        catalogue_folder=tmp_path,
        output=tmp_path / "output",
        work=tmp_path / "work",
        seed=1,
        profile="gpu",
        console=Console(quiet=True),
        _shared={},
    )
    with pytest.raises(BuildError, match="expected the packages tensorrt"):
        step.run(context, step.settings())  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []
