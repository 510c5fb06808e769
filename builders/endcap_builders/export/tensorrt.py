"""Compiles ONNX encoders to TensorRT engines with Polygraphy, on the GPU model that will serve them."""

import importlib.util
import itertools
from dataclasses import dataclass
from pathlib import Path

from endcap_builders.step import BuildError

TOKEN_BUDGET = 16_384
"""Padded tokens of a full micro-batch: enough to fill a data-centre GPU, at a few hundred MB of activations."""
_SHORTEST, _WIDTH_STEP = 32, 8
_USUAL_BATCH = 128


@dataclass(frozen=True)
class ShapeRange:
    """One optimisation profile: the [batch, length] range that TensorRT allows, and the one for which it optimises."""

    opt: tuple[int, int]
    max: tuple[int, int]
    min: tuple[int, int] = (1, 1)


def shape_ranges(longest: int, token_budget: int = TOKEN_BUDGET) -> list[ShapeRange]:
    """Ranges that cover the micro-batches of at most ``token_budget`` padded tokens, the shortest length first.

    Each range doubles the length of the one before, so the length for which TensorRT optimises is at most twice the
    real one. Within a range, the runtime never has more rows than the budget allows at 32 tokens, so that no range
    plans memory for more than twice the budget.

    Args:
        longest: tokens of the longest sequence; rounded up to a multiple of 8, as the runtime pads.
        token_budget: batch times length, at most.
    """
    longest = -(-longest // _WIDTH_STEP) * _WIDTH_STEP
    if not 0 < longest <= token_budget:
        raise ValueError(f"longest: expected 1..{token_budget} tokens (one sequence in the budget), got {longest}")
    lengths = [length for length in (_SHORTEST << power for power in range(16)) if length < longest] + [longest]
    ranges = []
    for before, length in itertools.pairwise([0, *lengths]):
        most = token_budget // max(before + _WIDTH_STEP, min(_SHORTEST, longest))
        ranges.append(ShapeRange(opt=(min(_USUAL_BATCH, most), length), max=(most, length)))
    return ranges


def require_tensorrt() -> None:
    """Refuse a GPU build at once, not after minutes of training.

    Raises:
        BuildError: TensorRT or Polygraphy is not installed.
    """
    missing = [name for name in ("tensorrt", "polygraphy") if importlib.util.find_spec(name) is None]
    if missing:
        raise BuildError(
            f"--profile gpu: expected the packages tensorrt and polygraphy, found no {' and no '.join(missing)}; "
            "build inside the GPU container (docs/gpu.md), or with --profile cpu"
        )


def compile_engine(onnx: Path, plan: Path, inputs: tuple[str, ...], longest: int) -> None:
    """Compile ``onnx`` to the engine ``plan`` for this machine's GPU and TensorRT release.

    The network is strongly typed: it computes in the types of the ONNX file.

    Raises:
        BuildError: TensorRT is missing or cannot compile the model.
    """
    require_tensorrt()
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxPath, Profile
    from polygraphy.exception import PolygraphyException

    profiles = []
    for shapes in shape_ranges(longest):
        profile = Profile()
        for name in inputs:
            profile.add(name, min=shapes.min, opt=shapes.opt, max=shapes.max)
        profiles.append(profile)
    network = NetworkFromOnnxPath(str(onnx), strongly_typed=True)
    try:
        engine = EngineBytesFromNetwork(network, config=CreateConfig(profiles=profiles))()
    except (PolygraphyException, RuntimeError, TypeError) as error:  # TensorRT raises the latter two
        raise BuildError(f"{onnx}: TensorRT cannot compile it: {error}; is there a GPU (nvidia-smi)?") from error
    plan.write_bytes(bytes(engine))
