"""Lint against the real server: what it calls refused is refused, what it passes loads, and its facts are facts."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from endcap_server.launch import find_installation
from endcap_server.launch.listening import free_ports
from endcap_server.lint import lint_repository, read_repository
from tiny_repository import ensemble, model, tensor

CPU = "instance_group [ { kind: KIND_CPU count: 1 } ]"
X, Y = tensor("X", [-1]), tensor("Y", [-1])
OUTPUTS = [tensor("OUT", [-1]), tensor("EMPTY", [-1]), tensor("TIME", [1], "FP64")]
STEP = ("plain", {"IN": "X"}, {"OUT": "Y"})

REFUSED = {
    "unused": ([X], [Y], [("plain", {"IN": "X"}, {"OUT": "Y", "EMPTY": "spare"})]),
    "input_unused": ([X, tensor("W", [1])], [Y], [STEP]),
    "twice": ([X], [Y], [STEP, STEP]),
    "unproduced": ([X], [Y], [("plain", {"IN": "Z"}, {"OUT": "Y"})]),
    "no_output": ([X], [Y, tensor("Z", [-1])], [STEP]),
    "cycle": (
        [X],
        [Y],
        [("two", {"IN": "X", "ALSO": "b"}, {"OUT": "a"}), ("plain", {"IN": "a"}, {"OUT": "b", "EMPTY": "Y"})],
    ),
    "types": ([X], [tensor("Y", [-1], "FP64")], [STEP]),
    "shapes": ([X], [tensor("Y", [-1, -1])], [STEP]),
    "misspelt_key": ([X], [Y], [("plain", {"IM": "X"}, {"OUT": "Y"})]),
    "misspelt_output": ([X], [Y], [("plain", {"IN": "X"}, {"OUTT": "Y"})]),
    "not_mapped": ([X], [Y], [("two", {"IN": "X"}, {"OUT": "Y"})]),
    "no_model": ([X], [Y], [("plane", {"IN": "X"}, {"OUT": "Y"})]),
    "itself": ([X], [Y], [("itself", {"X": "X"}, {"Y": "Y"})]),
}
LOADED = {
    "fine": ([X], [Y], [STEP]),
    "optional": ([tensor("X", [-1], optional=True)], [Y], [("maybe", {"IN": "X"}, {"OUT": "Y"})]),
    "batches": ([tensor("X", [-1, 2])], [tensor("Y", [-1, -1])], [("batching", {"IN": "X"}, {"OUT": "Y"})]),
    "nested": ([X], [Y], [("fine", {"X": "X"}, {"Y": "Y"})]),
    "reversed": ([X], [Y], [("plain", {"IN": "a"}, {"OUT": "Y"}), ("plain", {"IN": "X"}, {"OUT": "a"})]),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys") / "repository"
    one = [tensor("IN", [-1])]
    model(folder, "plain", one, OUTPUTS, more=CPU)
    model(folder, "two", [*one, tensor("ALSO", [-1])], OUTPUTS, more=CPU)
    model(folder, "maybe", [tensor("IN", [-1], optional=True)], OUTPUTS, more=CPU)
    model(folder, "batching", [tensor("IN", [2])], OUTPUTS, batch=4, more=CPU)
    model(folder, "other_name", one, OUTPUTS, more=f'{CPU}\nname: "another"')
    model(folder, "gpu", one, OUTPUTS, more=CPU.replace("CPU", "GPU"))
    model(folder, "newer", one, OUTPUTS, more=f"{CPU}\nmodel_metrics {{ }}")
    for name, (inputs, outputs, steps) in {**REFUSED, **LOADED}.items():
        ensemble(folder, name, inputs, outputs, steps)
        (folder / name / "1").mkdir()
    ensemble(folder, "required", [tensor("X", [-1], optional=True)], [Y], [STEP])
    (folder / "required" / "1").mkdir()
    return folder


@pytest.fixture(scope="module")
def client(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    """A bare server on the toys, with no model loaded."""
    installation, folder = find_installation(), tmp_path_factory.mktemp("server")
    (port,) = free_ports(("127.0.0.1", 0, "--grpc-port"))
    command = [
        str(installation.binary),
        f"--model-repository={repository}",
        f"--backend-directory={installation.link_python_backend(folder / 'backends')}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        "--allow-http=false",
        "--allow-metrics=false",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
        "--exit-timeout-secs=2",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=installation.environment(), stdout=log, stderr=subprocess.STDOUT)
    try:
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as connection:
            for _ in range(150):
                if _is_ready(connection):
                    break
                time.sleep(0.1)
            yield connection
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(connection: triton.InferenceServerClient) -> bool:
    try:
        return bool(connection.is_server_ready())
    except triton.InferenceServerException:
        return False


def errors(repository: Path, name: str) -> set[str]:
    findings = lint_repository(repository, ["cpu"])
    own = {finding for finding in findings if name in finding.where.path.relative_to(repository).parts}
    return {finding.code.name for finding in own if finding.severity == "error"}


def ask(client: triton.InferenceServerClient, name: str, values: list[float], outputs: list[str]) -> dict[str, Any]:
    array = np.array(values, np.float32)
    sent = triton.InferInput("X", array.shape, "FP32").set_data_from_numpy(array)
    wanted = [triton.InferRequestedOutput(each) for each in outputs]
    answer = client.infer(name, [sent] if values else [], outputs=wanted)
    return {each.name: answer.as_numpy(each.name).tolist() for each in answer.get_response().outputs}


MODELS = ("other_name", "gpu", "newer")


@pytest.mark.parametrize("name", [*REFUSED, *MODELS])
def test_what_lint_finds_is_refused(name: str, repository: Path, client: triton.InferenceServerClient) -> None:
    assert errors(repository, name)
    with pytest.raises(triton.InferenceServerException):
        client.load_model(name)


@pytest.mark.parametrize("name", LOADED)
def test_what_lint_passes_is_loaded(name: str, repository: Path, client: triton.InferenceServerClient) -> None:
    assert not errors(repository, name)
    client.load_model(name)
    assert client.is_model_ready(name)


def test_a_required_input_that_callers_may_leave_out(repository: Path, client: triton.InferenceServerClient) -> None:
    assert errors(repository, "required") == {"E317"}
    client.load_model("required")  # Triton does not mind...
    with pytest.raises(triton.InferenceServerException, match="missing required input"):
        ask(client, "required", [], ["Y"])  # ...before it is asked


def test_the_repository_of_a_build_is_clean(build: Path) -> None:
    assert lint_repository(build) == []
    assert read_repository(build).is_built
