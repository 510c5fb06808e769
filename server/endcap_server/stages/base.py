"""The base of all stages: calls of engines, errors, parameters and tensors.

A stage is plain code without Triton. ``model.py`` of its model folder passes it tensors as NumPy arrays (BYTES tensors
are object arrays of ``bytes``) and an :class:`Engines` that calls the engines through BLS. Tests and in-process use
pass the engine objects themselves.
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
    """Calls the engines: nearest, cross_encoder, theme_llm, keyword_llm."""

    async def call(self, engine: str, inputs: Tensors, deadline_ns: int, outputs: tuple[str, ...]) -> Tensors:
        """Return the requested ``outputs`` of one request to ``engine``.

        Args:
            engine: Name of the engine's model.
            inputs: Its input tensors.
            deadline_ns: ``time.monotonic_ns`` after which the answer is useless.
            outputs: Names of the output tensors to return.

        Raises:
            EngineTimeout: The deadline passed first.
            EngineError: The engine is missing or returned an error.
        """
        ...


@dataclass(frozen=True)
class StageAnswer:
    """The answer of a stage.

    Attributes:
        tensors: Its outputs but the status.
        status: Makes the stage's status, after everything else; `status.finish` updates its end time.
        document: JSON object for the following stages, in the same tensor as the status.
    """

    tensors: Tensors
    status: Callable[[], dict[str, Any]]
    document: str = "{}"


class Stage(ABC):
    """One CPU-only step of an ensemble.

    Args:
        build: The build folder (``build/NAME``) with the item store and manifest.
        parameters: The strings of the model's configuration, or parameters that are already read.
        engines: Calls the engines.
        model: Name of the model that the stage runs as; the stage's own unless it runs beside other generations.
    """

    declaration: ClassVar[ModelDeclaration]
    sources: ClassVar[tuple[Source, ...]] = (Source.COMPUTED, Source.FALLBACK)
    """Possible sources of its answers."""
    checks: ClassVar[type[StrEnum]] = NoCodes
    """What its quality checks count; `checks._missing_` can map names that an operator chose."""
    causes: ClassVar[type[StrEnum]] = NoCodes
    """Why it degrades, apart from the causes of engines."""
    refusals: ClassVar[type[StrEnum]] = NoCodes
    """Why it refuses valid requests."""
    name: ClassVar[str]
    requires: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Output -> (input, what is expected of it): a request for the output must have the input."""
    status_tensor: ClassVar[str]
    """Name of the output with its status and document."""
    ticket_tensor: ClassVar[str]
    """Name of the input with the request's ticket (see `documents`); the first stage creates the ticket."""

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
        """A new part of STATUS for a request that starts, with the model's name and the given data."""
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
        """Free the place in flight of a request that ends here without an answer; the first stage has none."""
        if not self.ticket_tensor:
            return
        # A direct request to this stage may have no ticket, or one without a table.
        with suppress(KeyError, ValueError, FileNotFoundError):
            ticket = ticket_of(inputs[self.ticket_tensor])
            table_of(self.run_folder, ticket.table).abandon(ticket.deadline_ns)

    def recall(self, inputs: Tensors) -> "StageAnswer | None":
        """The cached answer to an equal request, if there is one, without calling an engine."""
        return None

    def exposure_counts(self) -> Mapping[str, int]:
        """How many pages it recorded so far, by outcome; empty if it records none."""
        return {}

    def close(self) -> None:
        """Finish what is under way when the model is unloaded."""
        return

    def facts_age_s(self) -> float | None:
        """Age of the facts that its answers show, in seconds; None if it reports none."""
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
        """The tensor with the stage's status and document for the following stages."""
        return carried(status, document)

    async def run(self, inputs: Tensors) -> Tensors:
        """Answer one request with all outputs; see :meth:`answer`."""
        found = await self.answer(inputs)
        return found.tensors | {self.status_tensor: self.carry(found.status(), found.document)}
