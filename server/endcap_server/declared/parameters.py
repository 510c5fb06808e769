"""Parameters of models: types, ranges, defaults and meanings, read from the strings of ``config.pbtxt``."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from endcap_server.declared.errors import ParameterError


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
