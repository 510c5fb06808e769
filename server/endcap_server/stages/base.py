"""What all stages share: the engines they may call, their errors, their parameters and the tensors they pass.

A stage is plain code without Triton: ``model.py`` of its model folder hands it tensors as NumPy arrays (BYTES tensors
are object arrays of ``bytes``) and an :class:`Engines` that reaches the engines through BLS. Tests and in-process use
hand it the engine objects themselves.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from endcap_server.declared.errors import InvalidRequest
from endcap_server.declared.model import ModelDeclaration
from endcap_server.declared.parameters import ModelParameters
from endcap_server.declared.reasons import NoCodes, Source
from endcap_server.declared.tensors import Tensors
from endcap_server.stages.documents import TICKETED, ticket_of
from endcap_server.stages.in_flight import table_of
from endcap_server.stages.run_folder import run_folder
from endcap_server.stages.status import STATUS_TENSORS, StatusPart, carried


class Engines(Protocol):
    """Reaches the heavy engines: nearest, cross_encoder, theme_llm, keyword_llm."""

    async def call(self, engine: str, inputs: Tensors, deadline_ns: int, outputs: tuple[str, ...]) -> Tensors:
        """Answer the asked ``outputs`` of one request to ``engine``.

        Args:
            engine: Name of the engine's model.
            inputs: Its input tensors.
            deadline_ns: ``time.monotonic_ns`` at which the answer is worth nothing any more.
            outputs: Names of the output tensors to bring back.

        Raises:
            EngineTimeout: The deadline passed first.
            EngineError: The engine is not there or answered an error.
        """
        ...


@dataclass(frozen=True)
class StageAnswer:
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
        model: Name of the model that the stage runs as; the stage's own unless it runs beside other generations.
    """

    declaration: ClassVar[ModelDeclaration]
    sources: ClassVar[tuple[Source, ...]] = (Source.COMPUTED, Source.FALLBACK)
    """Where its answers may come from."""
    checks: ClassVar[type[StrEnum]] = NoCodes
    """What its quality checks count; `checks._missing_` may map what an operator has named."""
    causes: ClassVar[type[StrEnum]] = NoCodes
    """Why it degrades by itself, besides the causes of engines."""
    refusals: ClassVar[type[StrEnum]] = NoCodes
    """Why it refuses valid requests."""
    name: ClassVar[str]
    requires: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Output -> (input, what is expected of it): who asks for the output has to send the input."""
    status_tensor: ClassVar[str]
    """Name of the output with its status, and with the document that goes along."""
    ticket_tensor: ClassVar[str]
    """Name of the input with the request's ticket (see `documents`); the first stage has none, it writes them."""

    def __init_subclass__(cls) -> None:
        cls.name = cls.declaration.name
        cls.status_tensor = STATUS_TENSORS.get(cls.name, "STATUS")
        inputs = {each.name for each in cls.declaration.inputs}
        cls.ticket_tensor = next((name for name in TICKETED if name in inputs), "")

    def __init__(self, build: Path, parameters: Mapping[str, str] | ModelParameters, engines: Engines, model: str = ""):
        self.build = build
        self.engines = engines
        self.model = model or self.name
        self.run_folder = run_folder()
        self.settings: Any = (
            parameters
            if isinstance(parameters, ModelParameters)
            else self.declaration.parameters.from_strings(self.name, parameters)
        )

    def status(self, source: str = Source.COMPUTED, known: Mapping[str, Any] | None = None) -> StatusPart:
        """A new part of STATUS for a request that begins, with what is known already; it says which model it is of."""
        return StatusPart(source, {"model": self.model, **(known or {})})

    def check_asked(self, inputs: Tensors, outputs: Iterable[str]) -> None:
        """Refuse a request for outputs whose required input was not sent.

        Raises:
            InvalidRequest: Names the input.
        """
        for output in outputs:
            tensor, expected = self.requires.get(output, ("", ""))
            if tensor and tensor not in inputs:
                raise InvalidRequest(tensor, expected, "no such tensor")

    def abandon(self, inputs: Tensors) -> None:
        """Free the place in flight of a request that ends here without an answer; a first stage holds none yet."""
        if not self.ticket_tensor:
            return
        # What was asked of this stage directly may have no ticket, or one of no table.
        with suppress(KeyError, ValueError, FileNotFoundError):
            ticket = ticket_of(inputs[self.ticket_tensor])
            table_of(self.run_folder, ticket.table).abandon(ticket.deadline_ns)

    def recall(self, inputs: Tensors) -> "StageAnswer | None":
        """The answer to an equal request, if the stage keeps answers and has it: at once, without an engine."""
        return None

    @abstractmethod
    async def answer(self, inputs: Tensors) -> StageAnswer:
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
