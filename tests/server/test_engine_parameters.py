"""Both profiles of the model repository: that Triton can read them, that they agree, that the engines accept them."""

import subprocess
import sys
from pathlib import Path

import pytest
from endcap_server.declared.errors import ParameterError
from endcap_server.engines.cross_encoder import CrossEncoderParameters
from endcap_server.engines.llm_engine import LlmError
from endcap_server.engines.llm_models import LlmParameters, open_llm
from endcap_server.models import ENGINES as DECLARATIONS
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
CONFIGS = sorted([*REPOSITORY.glob("*/config.pbtxt"), *REPOSITORY.glob("*/configs/*.pbtxt")])
ENGINES = sorted(DECLARATIONS)


def read(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def strings(config: model_config_pb2.ModelConfig) -> dict[str, str]:
    values = {name: value.string_value for name, value in config.parameters.items()}
    values.pop("build", None)  # for the adapter, not the engine
    return values


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_triton_can_read_every_config(path: Path) -> None:
    config = read(path)
    assert config.output
    assert config.max_batch_size == 0


@pytest.mark.parametrize("name", ENGINES)
def test_both_profiles_have_the_same_tensors(name: str) -> None:
    cpu, gpu = read(REPOSITORY / name / "config.pbtxt"), read(REPOSITORY / name / "configs" / "gpu.pbtxt")
    assert list(cpu.input) == list(gpu.input)
    assert list(cpu.output) == list(gpu.output)
    assert cpu.backend == gpu.backend == "python"
    assert [group.kind for group in cpu.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_CPU]
    (group,) = gpu.instance_group
    assert (group.kind, group.count) == (model_config_pb2.ModelInstanceGroup.KIND_GPU, 1)


@pytest.mark.parametrize("name", ENGINES)
def test_profiles_choose_their_implementations(name: str) -> None:
    chosen = {
        profile: DECLARATIONS[name].parameters.from_strings(name, strings(read(REPOSITORY / name / file))).model_dump()
        for profile, file in (("cpu", "config.pbtxt"), ("gpu", "configs/gpu.pbtxt"))
    }
    decodes = name == "theme_llm"
    assert chosen["cpu"]["implementation"] == ("openvino_genai" if decodes else "openvino")
    assert chosen["gpu"]["implementation"] == ("tensorrt_llm" if decodes else "tensorrt")
    if name == "nearest":
        assert (chosen["cpu"]["faiss_device"], chosen["gpu"]["faiss_device"]) == ("cpu", "gpu")


@pytest.mark.parametrize("name", ENGINES)
def test_unknown_implementation_is_refused(name: str) -> None:
    with pytest.raises(
        ParameterError, match=rf"{name}, parameter implementation: expected ('\w+', )*'\w+' or '\w+', got 'onnx'"
    ):
        DECLARATIONS[name].parameters.from_strings(name, {"implementation": "onnx"})


def test_options_of_the_cross_encoder() -> None:
    options = CrossEncoderParameters(implementation="tensorrt", token_budget=4096, threads=3).runtime()
    assert (options.implementation, options.token_budget, options.threads) == ("tensorrt", 4096, 3)


def test_the_llm_asked_for_is_the_one_opened(tmp_path: Path) -> None:
    with pytest.raises(LlmError, match=r"expected an exported LLM with openvino_model\.xml"):
        open_llm(tmp_path, LlmParameters())
    with pytest.raises(LlmError, match=r"trtllm: expected a checkpoint with config\.json.*--profile gpu"):
        open_llm(tmp_path, LlmParameters(implementation="tensorrt_llm"))


def test_the_cpu_profile_imports_nothing_of_the_gpu_profile() -> None:
    code = """
import sys
import endcap_server.engines.cross_encoder, endcap_server.engines.nearest, endcap_server.engines.llm
import endcap_server.engines.keyword_llm
import endcap_server.engines.packed_runtime
print(sorted({"torch", "triton", "endcap_kernels", "tensorrt", "tensorrt_llm", "polygraphy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_gpu_profile_imports_no_openvino() -> None:
    code = """
import sys
import endcap_server.engines.cross_encoder, endcap_server.engines.nearest, endcap_server.engines.trtllm
import endcap_server.engines.keyword_llm
import endcap_server.engines.tensorrt_runtime
print(sorted({"openvino", "openvino_genai"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
