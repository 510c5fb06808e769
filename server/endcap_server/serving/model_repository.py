"""The model repository that Triton reads, rendered from the declarations.

`python -m endcap_server.serving.model_repository model_repository` writes it anew; a test holds the tree to it.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from endcap_server.declared.model import DeclaredTensor, ModelDeclaration
from endcap_server.ensembles import STAGES, Ensemble, EnsembleStep
from endcap_server.models import ENGINES, MODELS
from endcap_server.stages.base import Stage

_PARAMETERS = "# Parameters: value, meaning, range. Unknown names, and values out of range, are refused on loading."


def rendered() -> dict[str, str]:
    """Path in the repository -> text: every configuration, and the code of every stage and engine."""
    files = {f"{name}/1/model.py": _stage_code(stage) for name, stage in STAGES.items()}
    files |= {f"{name}/1/model.py": _engine_code(name) for name in ENGINES}
    for name, model in MODELS.items():
        if isinstance(model, Ensemble):
            files[f"{name}/config.pbtxt"] = _text(_ensemble(model))
            continue
        files[f"{name}/config.pbtxt"] = _text(_model(model, model.summary, "kind: KIND_CPU count: 1", {}))
        if model.gpu is not None:
            summary = (
                f"GPU profile (--model-config-name=gpu): the same tensors as config.pbtxt, with {model.gpu.summary}.\n"
                "To move the engine to another GPU, name it: gpus: [ 1 ]."
            )
            group = "kind: KIND_GPU count: 1 gpus: [ 0 ]"
            files[f"{name}/configs/gpu.pbtxt"] = _text(_model(model, summary, group, model.gpu.values))
    return files


def write(folder: Path) -> None:
    """Write all of it into the repository in ``folder``."""
    for name, text in rendered().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _stage_code(stage: type[Stage]) -> str:
    return f'''"""The {stage.name} stage; what it computes is `{stage.__module__}`."""

from {stage.__module__} import {stage.__name__}
from endcap_server.triton.stage_model import stage_model

TritonPythonModel = stage_model({stage.__name__})
'''


def _engine_code(engine: str) -> str:
    """One import of the engine's adapter."""
    return f'''"""The {engine} engine; its adapter is `endcap_server.triton.{engine}_model`."""

from endcap_server.triton.{engine}_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


def _comment(text: str) -> Iterator[str]:
    return (f"# {line}" for line in text.splitlines())


def _model(model: ModelDeclaration, summary: str, group: str, values: Mapping[str, object]) -> Iterator[str]:
    yield from _comment(summary)
    yield from ('backend: "python"', "max_batch_size: 0")
    yield from _tensors("input", model.inputs)
    yield from _tensors("output", model.outputs)
    yield f"instance_group [ {{ {group} }} ]"
    yield from ("", _PARAMETERS)
    for each in model.parameters.declared():
        if not each.set_by:
            yield f"# {each.comment}"
            value = values.get(each.name, each.default)
            yield f'parameters {{ key: "{each.name}" value: {{ string_value: "{value}" }} }}'


def _ensemble(ensemble: Ensemble) -> Iterator[str]:
    yield from _comment(ensemble.summary)
    yield from ('platform: "ensemble"', "max_batch_size: 0")
    yield from _tensors("input", ensemble.inputs)
    yield from _tensors("output", ensemble.outputs)
    yield from ("ensemble_scheduling {", "  step [")
    for number, step in enumerate(ensemble.steps, 1):
        yield from ("    {", *_step(step), "    }," if number < len(ensemble.steps) else "    }")
    yield from ("  ]", "}")


def _step(step: EnsembleStep) -> Iterator[str]:
    yield f'      model_name: "{step.stage.name}"'
    yield "      model_version: -1"
    for kind, links in (("input_map", step.inputs), ("output_map", step.outputs)):
        for key, value in links.items():
            yield f'      {kind} {{ key: "{key}" value: "{value}" }}'


def _tensors(kind: str, tensors: Iterable[DeclaredTensor]) -> Iterator[str]:
    yield f"{kind} ["
    yield ",\n".join(f"  {{ {_tensor(each)} }}" for each in tensors)
    yield "]"


def _tensor(each: DeclaredTensor) -> str:
    dims = ", ".join(map(str, each.dims))
    optional = " optional: true" if each.optional else ""
    return f'name: "{each.name}" data_type: TYPE_{each.data_type} dims: [ {dims} ]{optional}'


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        write(Path(argument))
