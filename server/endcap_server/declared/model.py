"""What a declaration of a model holds: tensors, parameters, the engines it calls, the files it opens, its devices.

Every stage and engine is declared once, in the module that implements it. The configurations that Triton reads, the
checks of lint, docs/lint.md and the labels of metrics are derived from the declarations.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from endcap_server.declared.parameters import ModelParameters

Device = Literal["cpu", "gpu"]

ADAPTER_PARAMETERS = {
    "build": "path of the build, relative to the model's folder (default ../..)",
    "engines": "JSON object, engine -> model that a stage calls for it (default: the engine's own name); "
    "`endcap apply` sets it",
}
"""Parameters that every stage and engine has besides its own; the adapters of `endcap_server.triton` read them."""


@dataclass(frozen=True)
class DeclaredTensor:
    """A tensor that a model's code reads or writes.

    Attributes:
        name: As in `config.pbtxt`.
        data_type: As in `config.pbtxt`, without TYPE_.
        dims: Shape, -1 for any size.
        optional: Whether an input may be left out.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False

    def as_optional(self) -> "DeclaredTensor":
        """The same tensor, as an input that may be left out."""
        return replace(self, optional=True)


def tensor(name: str, data_type: str, *dims: int, optional: bool = False) -> DeclaredTensor:
    """The declaration of a tensor of shape ``dims``."""
    return DeclaredTensor(name, data_type, dims, optional)


@dataclass(frozen=True)
class Implementation:
    """One way to run an engine: a value of its parameter `implementation`.

    Attributes:
        device: Where it computes.
        files: What it opens, relative to the folder of the engine's build step.
    """

    device: Device
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class GpuProfile:
    """An engine's configuration for `--profile gpu`.

    Attributes:
        summary: What differs from the CPU profile; a comment of the configuration.
        values: Parameters whose values differ from the defaults.
    """

    summary: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class ModelDeclaration:
    """A stage or an engine.

    Attributes:
        name: Of the model.
        summary: What it is; the first comment of its configuration.
        inputs: Tensors that its code reads.
        outputs: Tensors that its code writes.
        parameters: Types, ranges, defaults and meanings of its parameters.
        calls: Engines that it reaches through BLS.
        files: Files of the build that it opens on loading, given its parameters.
        optional_files: Files that it opens if the build has them.
        devices: Parameter -> value -> device that the value requires; an engine has at least one, a stage none.
        gpu: Its configuration for the GPU profile, if that differs.
        ordered: Pairs of parameters (least, most): the first is at most the second.
        reserve: (parameter, parameter of `retrieval`): milliseconds it keeps for itself, and the share of the budget
            that it gets.
    """

    name: str
    summary: str
    inputs: tuple[DeclaredTensor, ...]
    outputs: tuple[DeclaredTensor, ...]
    parameters: type[ModelParameters]
    calls: tuple[str, ...] = ()
    files: Callable[[Any], tuple[str, ...]] = field(default=lambda settings: ())
    optional_files: tuple[str, ...] = ()
    devices: Mapping[str, Mapping[str, Device]] = field(default_factory=dict)
    gpu: GpuProfile | None = None
    ordered: tuple[tuple[str, str], ...] = ()
    reserve: tuple[str, str] | None = None

    public = False
    """Whether its tensors are a contract with callers; see :class:`endcap_server.ensembles.Ensemble`."""

    @property
    def is_engine(self) -> bool:
        """Whether it owns a compiled model, and runs once per device."""
        return bool(self.devices)
