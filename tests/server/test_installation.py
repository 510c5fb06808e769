import sys
from pathlib import Path

import pytest
from endcap_server.launch import LaunchError, Server, ServerOptions, installation
from endcap_server.launch.installation import find_installation
from endcap_server.triton.device import select_gpu

PYTHON = Path(sys.executable)


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The layout of NVIDIA's images: the server in one folder, no pytriton wheel."""
    folder = tmp_path / "opt" / "tritonserver"
    for name in ("bin/tritonserver", "backends/python/triton_python_backend_stub"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("#!/bin/sh\necho --allow-sagemaker\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setattr(installation, "CONTAINER", folder)
    return folder


def test_a_container_serves_with_its_own_python(container: Path) -> None:
    found = find_installation(PYTHON)
    assert (found.python, found.binary) == (PYTHON, container / "bin" / "tritonserver")
    assert found.stub.exists()


@pytest.mark.parametrize(("profile", "named"), [("cpu", False), ("gpu", True)])
def test_the_profile_names_the_configs(container: Path, tmp_path: Path, profile: str, named: bool) -> None:
    (tmp_path / "build" / "repository" / "storefront").mkdir(parents=True)
    (tmp_path / "build" / "repository" / "storefront" / "config.pbtxt").touch()
    options = ServerOptions(
        tmp_path / "build", python=PYTHON, grpc_port=0, http_port=0, metrics_port=0, profile=profile
    )
    command = Server(options)._command(tmp_path)
    assert ("--model-config-name=gpu" in command) == named


def test_outside_a_container_the_wheel_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "CONTAINER", tmp_path)
    with pytest.raises(LaunchError, match="has no tritonserver"):
        find_installation(PYTHON)


@pytest.mark.parametrize(
    ("visible", "device", "chosen"), [(None, 1, "1"), ("", 0, "0"), ("4,6", 1, "6"), ("GPU-abc", 0, "GPU-abc")]
)
def test_an_engine_sees_its_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: int, chosen: str
) -> None:
    import os

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    select_gpu(device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == chosen
