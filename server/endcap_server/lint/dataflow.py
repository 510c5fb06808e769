"""Who produces and who consumes the tensors of an ensemble."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from endcap_server.lint.finding import Where
from endcap_server.lint.repository import Config, ConfiguredStep, ConfiguredTensor, Link, View


@dataclass(frozen=True)
class Use:
    """A producer or consumer of a tensor of the ensemble."""

    who: str
    where: Where
    tensor: ConfiguredTensor | None
    """As the model declares it; None if the model or its tensor is unknown."""
    is_border: bool
    """The ensemble itself: an input of it produces, an output consumes."""


@dataclass
class Flow:
    """The producers and consumers of each tensor, in the order of the file."""

    producers: dict[str, list[Use]] = field(default_factory=dict)
    consumers: dict[str, list[Use]] = field(default_factory=dict)

    @classmethod
    def of(cls, view: View, config: Config) -> "Flow":
        """The flow of an ensemble."""
        found = cls()
        for tensor in config.inputs:
            found._add(found.producers, tensor.name, Use("the ensemble's input", tensor.where, tensor, True))
        for step in config.steps:
            composing = view.configs.get(step.model)
            inputs = {each.name: each for each in composing.inputs} if composing else {}
            outputs = {each.name: each for each in composing.outputs} if composing else {}
            for link in step.inputs:
                use = Use(f"{step.model} ({link.key})", link.where, inputs.get(link.key), False)
                found._add(found.consumers, link.tensor, use)
            for link in step.outputs:
                use = Use(f"{step.model} ({link.key})", link.where, outputs.get(link.key), False)
                found._add(found.producers, link.tensor, use)
        for tensor in config.outputs:
            found._add(found.consumers, tensor.name, Use("the ensemble's output", tensor.where, tensor, True))
        return found

    @property
    def unused(self) -> list[str]:
        """Tensors that are produced and never consumed."""
        return [name for name in self.producers if name not in self.consumers]

    @staticmethod
    def _add(to: dict[str, list[Use]], name: str, use: Use) -> None:
        to.setdefault(name, []).append(use)


def compatible(source: ConfiguredTensor, target: ConfiguredTensor) -> bool:
    """Triton's rule: sizes are equal or -1, with the batch dimensions or without them."""
    return _fit(source.dims, target.dims) or _fit(source.full_dims, target.full_dims)


def _fit(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def first_loops(config: Config) -> Iterator[tuple[Link, list[ConfiguredStep]]]:
    """For each group of steps that wait for each other: the first entry that reads from a later step, and the steps."""
    makers: dict[str, ConfiguredStep] = {}
    for step in config.steps:
        for link in step.outputs:
            makers.setdefault(link.tensor, step)
    after: dict[int, set[int]] = {step.number: set() for step in config.steps}
    for step in config.steps:
        for link in step.inputs:
            if link.tensor in makers:
                after[makers[link.tensor].number].add(step.number)
    reached = {number: _reachable(number, after) for number in after}
    done: set[int] = set()
    for step in config.steps:
        loop = [other for other in config.steps if other.number in reached[step.number]]
        loop = [other for other in loop if step.number in reached[other.number]]
        if step.number in done or not loop:
            continue
        done |= {other.number for other in loop}
        back = [
            link
            for other in loop
            for link in other.inputs
            if (maker := makers.get(link.tensor)) in loop and maker is not None and maker.number >= other.number
        ]
        yield back[0], loop


def _reachable(start: int, after: dict[int, set[int]]) -> set[int]:
    """The steps that come after a step; itself only if it waits for itself."""
    found: set[int] = set()
    waiting = list(after[start])
    while waiting:
        number = waiting.pop()
        if number not in found:
            found.add(number)
            waiting += after[number]
    return found
