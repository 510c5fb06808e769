"""Positions of the fields in a text-format protobuf; protobuf's parser does not keep them.

`google.protobuf.text_format` decides whether a file is valid. Valid files are read again here, with its tokenizer, into
a tree of fields with positions. The tree also keeps what the parsed message loses: map entries that later entries
replace, and fields that are given twice.
"""

from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.text_format import Tokenizer

from endcap_server.lint.finding import Where

_BRACKETS = {"{": "}", "<": ">"}


@dataclass
class Field:
    """One occurrence of a field; each element of a list is an occurrence."""

    name: str
    where: Where
    """Line of the field's name, or of the element in a list."""
    value: str = ""
    """Value of a scalar: the text of a string without quotes and escapes, else the token."""
    fields: list["Field"] = field(default_factory=list)
    """Fields of a message, in the order of the file."""

    def all(self, name: str) -> list["Field"]:
        """Occurrences of the field `name`."""
        return [each for each in self.fields if each.name == name]

    def find(self, *path: str) -> "Field":
        """The first field at the path of names, or the last existing one on the way there."""
        place = self
        for name in path:
            found = place.all(name)
            if not found:
                break
            place = found[0]
        return place

    def place(self, *path: str) -> Where:
        """Line of the field that :meth:`find` returns."""
        return self.find(*path).where

    def text(self, name: str) -> str:
        """Value of the last scalar `name`, which is the effective one; "" without one."""
        found = self.all(name)
        return found[-1].value if found else ""


def read_fields(path: Path, text: str) -> Field:
    """The fields of a valid text-format file."""
    tokens = Tokenizer(text.split("\n"))
    root = Field("", _where(path, tokens))
    _read_message(path, tokens, root, "")
    return root


def _where(path: Path, tokens: Tokenizer) -> Where:
    return Where(path, tokens.ParseError("").GetLine())


def _read_message(path: Path, tokens: Tokenizer, into: Field, end: str) -> None:
    while not tokens.TryConsume(end) and not tokens.AtEnd():
        where = _where(path, tokens)
        name = tokens.ConsumeIdentifier()
        tokens.TryConsume(":")
        if tokens.TryConsume("["):
            while not tokens.TryConsume("]"):
                _read_value(path, tokens, into, Field(name, _where(path, tokens)))
                tokens.TryConsume(",")
        else:
            _read_value(path, tokens, into, Field(name, where))
        tokens.TryConsume(",") or tokens.TryConsume(";")


def _read_value(path: Path, tokens: Tokenizer, into: Field, value: Field) -> None:
    into.fields.append(value)
    opening = tokens.token
    if opening in _BRACKETS:
        tokens.NextToken()
        _read_message(path, tokens, value, _BRACKETS[opening])
    elif opening.startswith(('"', "'")):
        value.value = tokens.ConsumeByteString().decode(errors="replace")
    else:
        tokens.NextToken()
        value.value = opening
