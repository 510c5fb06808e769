"""Where each field of a text-format protobuf stands: protobuf's own parser keeps no positions.

`google.protobuf.text_format` decides whether a file is right; what it accepted is read here once more into a tree of
fields with line numbers. The tree also keeps what the parsed message has lost: entries of a map that later entries
replaced, fields that were given twice, and comments.
"""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

from google.protobuf import text_encoding

_TOKEN = re.compile(
    r"""(?P<space>\s+) | (?P<comment>\#[^\n]*) | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      | (?P<word>[\w.+-]+) | (?P<mark>.)""",
    re.VERBOSE,
)
_OPEN = {"{": "}", "<": ">"}


@dataclass
class Field:
    """One occurrence of a field: an element of a list is an occurrence of its own."""

    name: str
    line: int
    """Counted from 1: of the field's name, or of the element in a list."""
    value: str = ""
    """Of a scalar: the text of a string without quotes and escapes, else the word itself."""
    fields: list["Field"] = field(default_factory=list)
    """Of a message, in the order of the file."""

    def all(self, name: str) -> list["Field"]:
        """Occurrences of the field `name`."""
        return [each for each in self.fields if each.name == name]

    def find(self, *path: str) -> "Field":
        """The first field at the path of names, or the last one on the way there that is in the file."""
        place = self
        for name in path:
            found = place.all(name)
            if not found:
                break
            place = found[0]
        return place

    def text(self, name: str) -> str:
        """Value of the last scalar `name`, the one that counts; empty without one."""
        found = self.all(name)
        return found[-1].value if found else ""


@dataclass(frozen=True)
class Document:
    """A text-format file."""

    root: Field
    comments: dict[int, str]
    """Line -> text of the comments that have their line to themselves."""

    def comment_above(self, line: int) -> list[tuple[int, str]]:
        """(line, text) of the comment lines directly above `line`, in the order of the file."""
        found = []
        while (line := line - 1) in self.comments:
            found.append((line, self.comments[line]))
        return found[::-1]


def read_document(text: str) -> Document:
    """Read a text-format file that protobuf has accepted; of any other file, what can be made of it."""
    lines = text.split("\n")
    comments = {
        number: line.strip().lstrip("#").strip()
        for number, line in enumerate(lines, 1)
        if line.lstrip().startswith("#")
    }
    root = Field("", 1)
    _Reader(list(_tokens(text))).message(root, "")
    return Document(root, comments)


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """(kind, text, line) of everything that is neither space nor comment."""
    line = 1
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind not in ("space", "comment"):
            yield kind, match.group(), line
        line += match.group().count("\n")


class _Reader:
    def __init__(self, tokens: list[tuple[str, str, int]]) -> None:
        self._tokens, self._next = tokens, 0

    def message(self, into: Field, end: str) -> None:
        """Read fields up to the token `end`, and past it."""
        while (token := self._take()) is not None:
            kind, name, line = token
            if kind == "mark" and name == end:
                return
            if kind != "word":
                continue  # separators
            if self._peek() == ":":
                self._take()
            self._value(into, name, line)

    def _value(self, into: Field, name: str, line: int) -> None:
        opening = self._peek()
        if opening in _OPEN:
            self._take()
            into.fields.append(message := Field(name, line))
            self.message(message, _OPEN[opening])
        elif opening == "[":
            self._take()
            while self._peek() not in ("]", None):
                if self._peek() == ",":
                    self._take()
                else:
                    self._value(into, name, self._tokens[self._next][2])
            self._take()
        else:
            into.fields.append(Field(name, line, self._scalar()))

    def _scalar(self) -> str:
        token = self._take()
        if token is None:
            return ""
        kind, text, _ = token
        if kind == "mark" and text == "-":  # a sign apart from its number
            following = self._take()
            return text + (following[1] if following else "")
        if kind != "string":
            return text
        parts = [text[1:-1]]
        while self._next < len(self._tokens) and self._tokens[self._next][0] == "string":
            parts.append(self._tokens[self._next][1][1:-1])
            self._next += 1
        with warnings.catch_warnings():
            # Protobuf leaves an escape that it does not know as it is, and Python says that it will not for ever.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                return b"".join(text_encoding.CUnescape(part) for part in parts).decode(errors="replace")
            except UnicodeError:  # half an escape: protobuf refuses the file, and says so
                return "".join(parts)

    def _peek(self) -> str | None:
        return self._tokens[self._next][1] if self._next < len(self._tokens) else None

    def _take(self) -> tuple[str, str, int] | None:
        if self._next == len(self._tokens):
            return None
        self._next += 1
        return self._tokens[self._next - 1]
