"""Parameters of models: types, ranges, defaults and meanings, read from the strings of ``config.pbtxt``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from endcap_server.declared.errors import ParameterError


@dataclass(frozen=True)
class SetBy:
    """Marks a parameter that a command sets, not a user: it is in no rendered configuration."""

    command: str


@dataclass(frozen=True)
class IsFile:
    """Marks a parameter that names a file, by its absolute path."""


@dataclass(frozen=True)
class DeclaredParameter:
    """One parameter, as documentation, lint and configurations need it."""

    name: str
    default: Any
    bounds: str
    """">= 0, <= 1"; empty without bounds."""
    meaning: str
    set_by: str = ""
    """The command that sets it; empty if users do."""
    is_file: bool = False

    @property
    def comment(self) -> str:
        """The comment that belongs above it in a configuration."""
        return f"{self.meaning} ({self.bounds})" if self.bounds else self.meaning


class ModelParameters(BaseModel):
    """Parameters of one model: the only declaration of their types, ranges, defaults and meanings.

    Subclasses declare fields with ``Field(default, ge=..., le=..., description=...)``. Triton's configuration holds
    every parameter as a string; :meth:`from_strings` reads those.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def from_strings(cls, model: str, texts: Mapping[str, str]) -> Self:
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
                raise ParameterError(model, name, "one of " + ", ".join(cls.model_fields), "an unknown name") from None
            expected = describe_validation(first)
            raise ParameterError(model, name, expected, repr(first.get("input"))) from None

    @classmethod
    def declared(cls) -> Iterator[DeclaredParameter]:
        """Every parameter, in the order of the fields."""
        for name, field in cls.model_fields.items():
            set_by = next((mark.command for mark in field.metadata if isinstance(mark, SetBy)), "")
            is_file = any(isinstance(mark, IsFile) for mark in field.metadata)
            yield DeclaredParameter(name, field.default, _bounds(field), field.description or "", set_by, is_file)


def _bounds(field: FieldInfo) -> str:
    signs = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
    found = ((sign, getattr(rule, word, None)) for rule in field.metadata for word, sign in signs)
    return ", ".join(f"{sign} {bound:g}" for sign, bound in found if bound is not None)


def describe_validation(error: Any) -> str:
    """Pydantic's message of one error as an expectation: "a number greater than or equal to 0"."""
    message = str(error["msg"])
    for prefix in ("Input should be ", "Value error, "):
        message = message.removeprefix(prefix)
    return message
