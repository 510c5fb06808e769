"""Slots: how LLM 1 refers to the kinds of products that the shopper text lists.

The shopper text numbers its kinds, "{1}soft drinks,{2}cheese", and an answer names one by its slot: the title
"{1} with {2}" reads "Soft drinks with cheese". A slot is one token. A small student therefore names the shopper's kinds
without a mistake, and writes a page with half the tokens.
"""

import re
from collections.abc import Sequence

MAX_SLOTS = 9
_SLOT = re.compile(r"\{(\d)\}")


def slot(number: int) -> str:
    """The slot of the kind with this number (from 1)."""
    return f"{{{number}}}"


def without_slots(text: str) -> str:
    """A text without any slots."""
    return _SLOT.sub("", text)


class Slots:
    """Slots of the kinds of one shopper text.

    Args:
        names: Names of the kinds in lower case, in the order of the text; the first `MAX_SLOTS` have slots.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names[:MAX_SLOTS])
        longest_first = sorted(self.names, key=len, reverse=True)
        self._number = {name: number for number, name in enumerate(self.names, 1)}
        self._any = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)") if self.names else None

    def __len__(self) -> int:
        return len(self.names)

    def concept(self, text: str) -> str:
        """The slot of a concept that is one of the kinds; any other text as it is."""
        return slot(self._number[text]) if text in self._number else text

    def title(self, text: str) -> str:
        """A title with slots in the place of names: "Soft drinks with cheese" -> "{1} with {2}"."""
        if self._any is None:
            return text
        begin = text[:1].lower() + text[1:]
        if self._any.match(begin):
            text = begin
        return self._any.sub(lambda found: slot(self._number[found[0]]), text)

    def fill(self, text: str) -> str:
        """Put the names in the place of the slots.

        Raises:
            ValueError: there is no kind with that number.
        """
        numbers = [int(number) for number in _SLOT.findall(text)]
        if any(not 1 <= number <= len(self.names) for number in numbers):
            raise ValueError(f"expected slots 1 to {len(self.names)}, got {text!r}")
        return _SLOT.sub(lambda found: self.names[int(found[1]) - 1], text)

    def fill_title(self, text: str) -> str:
        """As :meth:`fill`; a name at the beginning gets a capital letter."""
        filled = self.fill(text)
        return filled[:1].upper() + filled[1:] if _SLOT.match(text) else filled
