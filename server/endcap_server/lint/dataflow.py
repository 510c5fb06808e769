"""Who produces and who consumes the tensors of an ensemble."""

from collections import defaultdict
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from endcap_server.lint.finding import Where
from endcap_server.lint.repository import Config, ConfiguredStep, ConfiguredTensor, Link, View


@dataclass(frozen=True)
class Use:
    """A producer or consumer of a tensor of the ensemble."""

    who: str
    where: Where
    tensor: ConfiguredTensor | None
    """The model's declaration; None if the model or its tensor is unknown."""
    is_border: bool
    """Whether it is the ensemble itself: its inputs produce, its outputs consume."""


@dataclass
class Flow:
    """The producers and consumers of each tensor, in the order of the file."""

    producers: dict[str, list[Use]] = field(default_factory=lambda: defaultdict(list))
    consumers: dict[str, list[Use]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, view: View, config: Config) -> "Flow":
        """The flow of an ensemble."""
        found = cls()
        for tensor in config.inputs:
            found.producers[tensor.name].append(Use("the ensemble's input", tensor.where, tensor, True))
        for step in config.steps:
            composing = view.configs.get(step.model)
            for uses, links, declared in (
                (found.consumers, step.inputs, composing.inputs if composing else ()),
                (found.producers, step.outputs, composing.outputs if composing else ()),
            ):
                tensors = {each.name: each for each in declared}
                for link in links:
                    use = Use(f"{step.model} ({link.key})", link.where, tensors.get(link.key), False)
                    uses[link.tensor].append(use)
        for tensor in config.outputs:
            found.consumers[tensor.name].append(Use("the ensemble's output", tensor.where, tensor, True))
        return found

    @property
    def unused(self) -> list[str]:
        """Tensors that are produced and never consumed."""
        return [name for name in self.producers if name not in self.consumers]


def compatible(source: ConfiguredTensor, target: ConfiguredTensor) -> bool:
    """Triton's rule: sizes are equal or -1, with the batch dimensions or without them."""
    return _fit(source.dims, target.dims) or _fit(source.full_dims, target.full_dims)


def _fit(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def first_loop(config: Config) -> tuple[Link, list[ConfiguredStep]] | None:
    """Steps that wait for each other, and the first entry that reads from a later step or the same one."""
    makers = {link.tensor: step for step in reversed(config.steps) for link in step.outputs}
    before = {
        step.number: [makers[link.tensor].number for link in step.inputs if link.tensor in makers]
        for step in config.steps
    }
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        loop = [step for step in config.steps if step.number in error.args[1]]
        back = [
            link
            for step in loop
            for link in step.inputs
            if link.tensor in makers and step.number <= makers[link.tensor].number in error.args[1]
        ]
        return back[0], loop
    return None
