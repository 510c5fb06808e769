"""Writes small model repositories: Python models that add one, and ensembles of them."""

from pathlib import Path

MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    \"\"\"OUT is IN + 1, EMPTY has no elements, TIME is now; IN may be missing.\"\"\"

    def execute(self, requests):
        return [pb_utils.InferenceResponse(self.answer(request)) for request in requests]

    def answer(self, request):
        sent = pb_utils.get_input_tensor_by_name(request, "IN")
        values = np.zeros(1, np.float32) if sent is None else sent.as_numpy()
        now = np.array([time.time()])
        outputs = {"OUT": values + 1, "EMPTY": values[:0], "TIME": now}
        return [pb_utils.Tensor(name, outputs[name]) for name in request.requested_output_names()]
""".replace("import numpy", "import time\n\nimport numpy")


def tensor(name: str, dims: list[int], data_type: str = "FP32", optional: bool = False) -> str:
    return f'{{ name: "{name}" data_type: TYPE_{data_type} dims: {dims}{" optional: true" if optional else ""} }}'


def model(folder: Path, name: str, inputs: list[str], outputs: list[str], batch: int = 0, more: str = "") -> None:
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "1/model.py").write_text(MODEL, encoding="utf-8")
    text = f'backend: "python"\nmax_batch_size: {batch}\ninput [ {", ".join(inputs)} ]\n'
    text += f"output [ {', '.join(outputs)} ]\n{more}\n"
    (folder / name / "config.pbtxt").write_text(text, encoding="utf-8")


Map = dict[str, str]


def ensemble(
    folder: Path,
    name: str,
    inputs: list[str],
    outputs: list[str],
    steps: list[tuple[str, Map, Map]],
    batch: int = 0,
    more: str = "",
) -> None:
    lines = [f'platform: "ensemble"\nmax_batch_size: {batch}']
    lines += [f"input [ {', '.join(inputs)} ]", f"output [ {', '.join(outputs)} ]", "ensemble_scheduling {"]
    for runs, into, out in steps:
        lines += ["  step {", f'    model_name: "{runs}"', "    model_version: -1"]
        lines += [f'    input_map {{ key: "{key}" value: "{value}" }}' for key, value in into.items()]
        lines += [f'    output_map {{ key: "{key}" value: "{value}" }}' for key, value in out.items()]
        lines += ["  }"]
    (folder / name).mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text("\n".join([*lines, "}", more]), encoding="utf-8")
