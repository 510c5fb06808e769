"""Limits for a generation before it goes live, and while it is watched."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from endcap_server.declared.parameters import describe_validation
from endcap_server.serving.errors import ApplyError

FILE = "apply.toml"


class RolloutLimits(BaseModel):
    """Settings of `endcap apply`, from `apply.toml` beside the source, and `--set NAME=VALUE`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    sample: int = Field(32, ge=4, le=1000, description="requests that are replayed: recorded ones, then made ones")
    min_overlap: float = Field(
        0.7,
        ge=0,
        le=1,
        description="least mean share of live's ten best that the new pages show too, in each ensemble",
    )
    max_drift: float = Field(
        0.15,
        ge=0,
        le=100,
        description="most mean difference of scores of products that both show, in each ensemble",
    )
    max_latency_ratio: float = Field(2.0, gt=0, le=1000, description="most median latency, as a multiple of live's")
    latency_slack_ms: float = Field(20.0, ge=0, le=60_000, description="milliseconds more than live that never matter")
    max_error_share: float = Field(0.0, ge=0, le=1, description="most requests that fail while live answers them")
    max_fallback_rise: float = Field(
        0.1, ge=0, le=1, description="most pages that degrade, beyond the share of live's that do"
    )
    watch_s: float = Field(10.0, ge=1, le=86_400, description="seconds that are watched after the switch")
    watch_error_rise: float = Field(
        0.02, ge=0, le=1, description="most failing requests after the switch, beyond the share that failed before it"
    )
    watch_latency_ratio: float = Field(
        3.0, gt=0, le=1000, description="most mean latency after the switch, as a multiple of that before it"
    )
    memory_reserve_mb: int = Field(512, ge=0, description="MB of memory that stay free with both generations loaded")

    @classmethod
    def read(cls, places: Iterable[Path], settings: Iterable[str] = ()) -> "RolloutLimits":
        """The limits in the first `apply.toml` of several folders, changed by "NAME=VALUE" settings.

        Raises:
            ApplyError: names file or setting, expected and got.
        """
        values: dict[str, Any] = {}
        path = next((place / FILE for place in places if (place / FILE).exists()), None)
        if path is not None:
            try:
                values = tomllib.loads(path.read_text(encoding="utf-8"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
                raise ApplyError(f"{path}: expected TOML, got {error}; correct it") from None
        for setting in settings:
            name, equals, value = setting.partition("=")
            if not equals:
                raise ApplyError(f"{setting}: expected NAME=VALUE, the names are {', '.join(cls.model_fields)}")
            values[name.strip()] = value.strip()
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0]) if first["loc"] else ""
            if first["type"] == "extra_forbidden":
                problem = f"no setting is called {name!r}; there are {', '.join(cls.model_fields)}"
            else:
                problem = f"{name}: expected {describe_validation(first)}, got {first.get('input')!r}"
            raise ApplyError(f"{path}: {problem}" if path else problem) from None

    @classmethod
    def table(cls) -> list[tuple[str, str, str]]:
        """(name, default, meaning) of each, for documentation."""
        return [(name, f"{field.default:g}", field.description or "") for name, field in cls.model_fields.items()]
