"""The merchandiser's editable word list: title patterns, campaigns, words without meaning."""

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

DEFAULT_LEXICON = Path(__file__).with_name("lexicon.toml")


class Titles(BaseModel):
    """Title patterns by subject of a placement."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    restock: tuple[str, ...] = Field(min_length=1)
    favourite: tuple[str, ...] = Field(min_length=1)
    discover: tuple[str, ...] = Field(min_length=1)
    complement: tuple[str, ...] = Field(min_length=1)
    pair: tuple[str, ...] = Field(min_length=1)
    pair_again: tuple[str, ...] = Field(min_length=1)
    list: tuple[str, ...] = Field(min_length=1)
    list_again: tuple[str, ...] = Field(min_length=1)
    attribute: tuple[str, ...] = Field(min_length=1)
    brand: tuple[str, ...] = Field(min_length=1)
    season: tuple[str, ...] = Field(min_length=1)
    session: tuple[str, ...] = Field(min_length=1)
    popular: tuple[str, ...] = Field(min_length=1)


class Lexicon(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    titles: Titles
    campaign: tuple[str, ...] = ()
    ignored_attributes: frozenset[str] = frozenset()


def read_lexicon(path: Path = DEFAULT_LEXICON) -> Lexicon:
    """Read a lexicon.

    Raises:
        ValueError: names the file, the entry, what was expected and what came.
    """
    try:
        return Lexicon.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(f"lexicon {path}: expected a file, found none") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"lexicon {path}: expected TOML, got: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"lexicon {path}, {place}: {first['msg']}, got {str(first['input'])[:80]!r}") from None
