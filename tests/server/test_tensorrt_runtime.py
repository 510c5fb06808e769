"""All of the TensorRT runtime but the GPU itself: OpenVINO computes the exported ONNX in place of the engine."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_encoders
import torch
from endcap_builders.export.onnx import export_cross_encoder_onnx
from endcap_builders.export.tensorrt import shape_ranges
from endcap_server.engines import openvino_cpu
from endcap_server.engines.cross_encoder import CrossEncoder
from endcap_server.engines.encoder_runtime import EngineLoadError, RuntimeOptions
from endcap_server.engines.encoders import open_encoder
from endcap_server.engines.tensorrt_runtime import TensorRtRuntime
from transformers import BertForSequenceClassification

GPU = RuntimeOptions(implementation="tensorrt", token_budget=512)
without_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is not None, reason="about machines that lack TensorRT"
)


class OnnxDevice:
    """Refuses what the engine's optimisation profiles would refuse."""

    outputs = 1

    def __init__(self, path: Path, longest: int, token_budget: int = 1024) -> None:
        self._compiled = openvino_cpu.core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self._ranges = shape_ranges(longest, token_budget)
        self.names = tuple(port.any_name for port in self._compiled.inputs)
        self.shapes: list[tuple[int, int]] = []
        self.waiting = self.most_waiting = 0

    def most_rows(self, width: int) -> int:
        return next((shapes.max[0] for shapes in self._ranges if width <= shapes.max[1]), 0)

    def start(self, feed: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
        rows, width = feed["input_ids"].shape
        assert set(feed) == set(self.names)
        assert rows <= self.most_rows(width)
        self.shapes.append((rows, width))
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)

        def wait() -> np.ndarray:
            self.waiting -= 1
            return np.array(self._compiled(feed)[0])

        return wait


@pytest.fixture(scope="module")
def model() -> BertForSequenceClassification:
    return tiny_encoders.cross_encoder()


@pytest.fixture(scope="module")
def onnx(model: BertForSequenceClassification, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_cross_encoder_onnx(model, path)
    return path


def sequences(count: int, longest: int = 60) -> list[np.ndarray]:
    rng = np.random.default_rng(8)
    return [rng.integers(5, 40, rng.integers(3, longest)) for _ in range(count)]


def filler(tokens: list[np.ndarray]) -> Callable[[np.ndarray, np.ndarray, np.ndarray], None]:
    def fill(rows: np.ndarray, ids: np.ndarray, types: np.ndarray) -> None:
        for line, row in enumerate(rows):
            ids[line, : len(tokens[row])] = tokens[row]
            types[line, 2 : len(tokens[row])] = 1

    return fill


def lengths_of(tokens: list[np.ndarray]) -> np.ndarray:
    return np.array([len(each) for each in tokens])


def test_results_equal_torch_one_by_one(model: BertForSequenceClassification, onnx: Path) -> None:
    tokens = sequences(90)
    device = OnnxDevice(onnx, longest=64)
    runtime = TensorRtRuntime(onnx, GPU, device)
    results, done = runtime.run(lengths_of(tokens), filler(tokens))
    assert done.all()
    assert results.shape == (90, 1)
    for row in range(0, 90, 9):
        ids = torch.from_numpy(tokens[row])[None]
        types = (torch.arange(ids.shape[1]) >= 2).long()[None]
        with torch.no_grad():
            alone = model(input_ids=ids, token_type_ids=types, attention_mask=torch.ones_like(ids)).logits
        assert abs(float(alone[0, 0]) - results[row, 0]) < 0.02
    assert all(width % 8 == 0 and rows * width <= 512 for rows, width in device.shapes)
    assert device.most_waiting == 2
    assert len(device.shapes) < 12


def test_micro_batches_stay_within_the_engine(onnx: Path) -> None:
    """The budget of the configuration may be larger than what the engine was built for."""
    tokens = sequences(300, longest=20)
    device = OnnxDevice(onnx, longest=24, token_budget=256)
    runtime = TensorRtRuntime(onnx, RuntimeOptions(token_budget=65_536), device)
    assert runtime.run(lengths_of(tokens), filler(tokens))[1].all()
    assert max(rows for rows, _ in device.shapes) == 256 // 24  # the range for 24 tokens


def test_rows_that_nobody_waits_for_are_left_out(onnx: Path) -> None:
    tokens = sequences(90)
    asked = 0

    def alive() -> np.ndarray:
        nonlocal asked
        asked += 1
        return np.arange(90) % 2 == 0 if asked > 1 else np.ones(90, bool)

    device = OnnxDevice(onnx, longest=64)
    _, done = TensorRtRuntime(onnx, GPU, device).run(lengths_of(tokens), filler(tokens), alive)
    assert done[::2].all()
    # All of the first micro-batch were computed, and of the later ones every second row.
    assert 0 < done[1::2].sum() < device.shapes[0][0]
    assert sum(rows for rows, _ in device.shapes) == done.sum()


def test_nothing_to_do(onnx: Path) -> None:
    results, done = TensorRtRuntime(onnx, GPU, OnnxDevice(onnx, longest=64)).run(np.zeros(0, int), filler([]))
    assert results.shape == (0, 1)
    assert done.shape == (0,)


def test_too_long_a_sequence(onnx: Path) -> None:
    tokens = [np.full(70, 9)]
    runtime = TensorRtRuntime(onnx, GPU, OnnxDevice(onnx, longest=64))
    with pytest.raises(EngineLoadError, match=r"model\.onnx: a sequence has 72 tokens"):
        runtime.run(lengths_of(tokens), filler(tokens))


@without_tensorrt
def test_tensorrt_is_missing(tmp_path: Path) -> None:
    with pytest.raises(EngineLoadError, match=r"implementation tensorrt: expected the packages .*docs/gpu\.md"):
        open_encoder(tmp_path, GPU)


def test_unknown_implementation(tmp_path: Path) -> None:
    with pytest.raises(EngineLoadError, match="implementation: expected openvino or tensorrt, got 'onnx'"):
        open_encoder(tmp_path, RuntimeOptions(implementation="onnx"))


@without_tensorrt
def test_the_cross_encoder_takes_the_implementation_asked_for(tiny_cross_encoder: Path, tmp_path: Path) -> None:
    from endcap_server.shop.store import ItemStore

    tiny_encoders.write_store(tmp_path, tiny_cross_encoder / "tokenizer.json", tiny_encoders.random_titles(5))
    store = ItemStore.open(tmp_path, linked=False)
    assert CrossEncoder(tiny_cross_encoder, store).precision in ("f32", "bf16")
    with pytest.raises(EngineLoadError, match="implementation tensorrt"):
        CrossEncoder(tiny_cross_encoder, store, GPU)
