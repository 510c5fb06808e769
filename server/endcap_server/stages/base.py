"""What all stages share: the engines they may call, their errors, their parameters and the tensors they pass.

A stage is plain code without Triton: ``model.py`` of its model folder hands it tensors as NumPy arrays (BYTES tensors
are object arrays of ``bytes``) and an :class:`Engines` that reaches the engines through BLS. Tests and in-process use
hand it the engine objects themselves.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from endcap_server.stages.status import StatusPart, carried
from endcap_server.stages.tensors import Tensors


class Engines(Protocol):
    """Reaches the heavy engines: nearest, cross_encoder, theme_llm, keyword_llm."""

    async def call(self, engine: str, inputs: Tensors, deadline_ns: int, outputs: tuple[str, ...]) -> Tensors:
        """Answer the asked ``outputs`` of one request to ``engine``.

        Args:
            engine: Name of the engine's model.
            inputs: Its input tensors.
            deadline_ns: ``time.monotonic_ns`` at which the answer is worth nothing any more; no part of a cache key.
            outputs: Names of the output tensors to bring back.

        Raises:
            EngineTimeout: The deadline passed first.
            EngineError: The engine is not there or answered an error.
        """
        ...


class EngineError(Exception):
    """An engine could not answer."""

    def __init__(self, engine: str, reason: str):
        super().__init__(f"{engine}: {reason}")
        self.engine = engine
        self.reason = reason


class EngineTimeout(EngineError):  # noqa: N818 - what happened, not whose fault
    """An engine did not answer before the deadline of the call."""

    def __init__(self, engine: str, reason: str = "no answer within its share of the budget"):
        super().__init__(engine, reason)


class InvalidRequest(ValueError):  # noqa: N818 - the status it becomes
    """A request that the contract does not allow; reaches the client as INVALID_ARGUMENT.

    Args:
        tensor: Name of the input tensor.
        expected: What the contract asks for.
        got: What came.
        advice: What to do about it, if that is not plain.
    """

    def __init__(self, tensor: str, expected: str, got: str, advice: str = ""):
        super().__init__(f"{tensor}: expected {expected}, got {got}" + (f"; {advice}" if advice else ""))
        self.tensor = tensor
        self.expected = expected
        self.got = got
        self.advice = advice


class Overloaded(Exception):  # noqa: N818 - the state of the server
    """More is asked for than can be answered in time; reaches the client as UNAVAILABLE, at once."""


class ParameterError(ValueError):
    """A parameter of a stage's ``config.pbtxt`` that the stage does not know or cannot use."""

    def __init__(self, stage: str, parameter: str, expected: str, got: str):
        super().__init__(
            f"{stage}, parameter {parameter}: expected {expected}, got {got}; correct it in {stage}/config.pbtxt"
        )
        self.stage = stage
        self.parameter = parameter


class StageParameters(BaseModel):
    """Parameters of one stage: the one place of their types, ranges, defaults and meanings.

    Subclasses declare fields with ``Field(default, ge=..., le=..., description=...)``. Triton's configuration holds
    every parameter as a string; :meth:`from_strings` reads those.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def from_strings(cls, stage: str, texts: Mapping[str, str]) -> Self:
        """Read ``config.pbtxt`` parameters.

        Raises:
            ParameterError: The first parameter that is unknown, of the wrong type or out of its range.
        """
        try:
            return cls.model_validate(dict(texts))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0]) if first["loc"] else "(all)"
            if first["type"] == "extra_forbidden":
                raise ParameterError(stage, name, "one of " + ", ".join(cls.model_fields), "an unknown name") from None
            expected = describe_validation(first)
            raise ParameterError(stage, name, expected, repr(first.get("input"))) from None

    @classmethod
    def table(cls) -> list[tuple[str, str, str, str]]:
        """(name, default, range, description) of each parameter, for documentation and lint."""
        rows = []
        for name, field in cls.model_fields.items():
            bounds = []
            for rule in field.metadata:
                for word, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
                    if (bound := getattr(rule, word, None)) is not None:
                        bounds.append(f"{sign} {bound:g}")
            rows.append((name, str(field.default), ", ".join(bounds), field.description or ""))
        return rows


def describe_validation(error: Any) -> str:
    """Pydantic's message of one error as an expectation: "a number greater than or equal to 0"."""
    message = str(error["msg"])
    for prefix in ("Input should be ", "Value error, "):
        message = message.removeprefix(prefix)
    return message


@dataclass(frozen=True)
class Answer:
    """What a stage answers.

    Attributes:
        tensors: Its outputs but the status.
        status: Writes what the stage says about itself, after all else; `status.finish` writes its end once more.
        document: JSON object that goes to the following stages in the same tensor as the status.
    """

    tensors: Tensors
    status: Callable[[], dict[str, Any]]
    document: str = "{}"


class Stage(ABC):
    """One light step of an ensemble.

    Args:
        build: The build folder (``build/NAME``) with the item store and manifest.
        parameters: The strings of the model's configuration, or parameters that are already read.
        engines: Reaches the engines.
    """

    name: ClassVar[str]
    parameters: ClassVar[type[StageParameters]]
    requires: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Output -> (input, what is expected of it): who asks for the output has to send the input."""
    status_tensor: ClassVar[str]
    """Name of the output with its status, and with the document that goes along."""

    def __init__(self, build: Path, parameters: Mapping[str, str] | StageParameters, engines: Engines):
        self.build = build
        self.engines = engines
        self.model = self.name
        """Name of the model that this stage runs as: its own, or that of a generation beside others."""
        self.settings: Any = (
            parameters
            if isinstance(parameters, StageParameters)
            else self.parameters.from_strings(self.name, parameters)
        )

    def status(self, source: str = "computed") -> StatusPart:
        """A new part of STATUS for a request that begins; it says which model it comes from."""
        return StatusPart(source, {"model": self.model})

    def check_asked(self, inputs: Tensors, outputs: Iterable[str]) -> None:
        """Refuse a request for outputs whose required input was not sent.

        Raises:
            InvalidRequest: Names the input.
        """
        for output in outputs:
            tensor, expected = self.requires.get(output, ("", ""))
            if tensor and tensor not in inputs:
                raise InvalidRequest(tensor, expected, "no such tensor")

    def abandon(self, inputs: Tensors) -> None:  # noqa: B027 - most stages keep nothing of a request
        """Take note that this request will not be answered, because its client has gone."""

    @abstractmethod
    async def answer(self, inputs: Tensors) -> Answer:
        """Answer one request.

        Args:
            inputs: Tensors by name; an optional tensor that was not sent is absent.

        Raises:
            InvalidRequest: The request breaks the contract.
        """

    def carry(self, status: Mapping[str, Any], document: str) -> np.ndarray:
        """The tensor of the stage's status, on the way to fusion, and of the document that goes along."""
        return carried(status, document)

    async def run(self, inputs: Tensors) -> Tensors:
        """Answer one request with all outputs; see :meth:`answer`."""
        found = await self.answer(inputs)
        return found.tensors | {self.status_tensor: self.carry(found.status(), found.document)}
