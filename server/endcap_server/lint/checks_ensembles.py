"""Ensembles: that every step's model and tensors exist, that data flows, that types and shapes fit on the way."""

from collections.abc import Iterator
from dataclasses import dataclass

from endcap_server.lint.dataflow import Flow, Use, compatible, first_loops
from endcap_server.lint.finding import Finding, Where, closest, code, did_you_mean
from endcap_server.lint.registry import check
from endcap_server.lint.repository import Config, ConfiguredStep, View
from endcap_server.models import MODELS, base_name, declared_model

_REFUSED = "Triton refuses the ensemble, and takes the running one down"

STEP = code("E301", "a step is incomplete", _REFUSED)
NO_MODEL = code("E302", "a step's model does not exist", _REFUSED)
NO_INPUT = code("E303", "input_map names no input of the model", _REFUSED)
NO_OUTPUT = code("E304", "output_map names no output of the model", _REFUSED)
NOT_MAPPED = code("E305", "a required input of a step is not mapped", _REFUSED)
MAPPED_TWICE = code("E306", "a map has two entries of one key", "only the last one counts, without a word from Triton")
NOT_PRODUCED = code("E307", "a tensor is read that nothing produces", _REFUSED)
PRODUCED_TWICE = code("E308", "a tensor has several producers", "Triton refuses it, or lets them race")
NOT_USED = code("E309", "a tensor is produced and not used", _REFUSED)
INPUT_NOT_USED = code("E310", "an input of the ensemble is not used", _REFUSED)
OUTPUT_NOT_PRODUCED = code("E311", "an output of the ensemble is not produced", _REFUSED)
CYCLE = code("E312", "steps wait for each other", _REFUSED)
TYPES = code("E313", "types differ between producer and consumer", _REFUSED)
SHAPES = code("E314", "shapes do not fit between producer and consumer", _REFUSED)
FIXED_SIZE = code(
    "W315", "a tensor of any size feeds an input of fixed size", "a request of another size fails, which no load shows"
)
BATCH_SIZE = code("E316", "a step takes smaller batches than its ensemble", _REFUSED)
OPTIONAL = code(
    "E317", "an optional input of the ensemble is required by a step", "every request without it fails in that step"
)
NO_STEP_VERSION = code("E318", "a step asks for a version that does not exist", _REFUSED)
NESTING = code("E319", "ensembles contain each other", "Triton refuses all of them")
NO_ENSEMBLE = code("E320", "an ensemble that the server loads is missing", "the server does not start")
NO_ENGINE = code("E321", "a stage's engine is missing", "the server does not start, or the stage degrades every page")
UNREACHED = code("W322", "no ensemble reaches the model", "it takes memory, and serves nothing but calls by its name")


@check(STEP, NO_MODEL, NO_STEP_VERSION, BATCH_SIZE)
def steps(view: View) -> Iterator[Finding]:
    """Steps are complete, and their models are there in the version and batch size that they ask for."""
    for config in view.ensembles:
        if not config.steps:
            where = config.place("ensemble_scheduling" if config.proto.HasField("ensemble_scheduling") else "platform")
            yield STEP.at(where, f"{config.model} has no step", "write ensemble_scheduling { step [ ... ] }")
        for step in config.steps:
            for name, links in (("input_map", step.inputs), ("output_map", step.outputs)):
                if not links:
                    yield STEP.at(step.where, f"step {step.number} has no {name}", "map its tensors")
            if not step.model:
                yield STEP.at(Where(config.path, step.source.line), f"step {step.number} has no model_name", "name one")
            elif not view.exists(step.model):
                advice = did_you_mean(step.model, set(view.repository.models) - {config.model}, "models")
                yield NO_MODEL.at(step.where, f"step {step.number} runs {step.model!r}, which does not exist", advice)
            else:
                yield from _step_settings(view, config, step)


def _step_settings(view: View, config: Config, step: ConfiguredStep) -> Iterator[Finding]:
    versions = view.repository.models[step.model].versions
    composing = view.configs.get(step.model)
    unbuilt = composing is not None and composing.is_ensemble and step.version == 1
    if step.version != -1 and step.version not in versions and not unbuilt:
        there = ", ".join(map(str, versions)) or "none"
        what = f"step {step.number} asks for version {step.version} of {step.model}"
        yield NO_STEP_VERSION.at(step.place("model_version"), what, f"write -1 for the newest; there are: {there}")
    most = config.proto.max_batch_size
    if composing is not None and 0 < composing.proto.max_batch_size < most:
        what = f"{config.model} takes batches of {most}, its step {step.model} of {composing.proto.max_batch_size}"
        where = config.place("max_batch_size")
        yield BATCH_SIZE.at(where, what, f"raise max_batch_size of {step.model}, or lower this one")


@check(NO_INPUT, NO_OUTPUT, NOT_MAPPED, MAPPED_TWICE)
def maps(view: View) -> Iterator[Finding]:
    """The maps of each step name tensors that its model has, each once, and all that it requires."""
    for config in view.ensembles:
        for step in config.steps:
            for links in (step.inputs, step.outputs):
                keys = [link.key for link in links]
                for position, link in enumerate(links):
                    if link.key in keys[:position]:
                        what = f"{link.key} of {step.model} is mapped twice"
                        yield MAPPED_TWICE.at(link.where, what, "keep one of them")
            composing = view.configs.get(step.model)
            if composing is None:
                continue
            yield from _inputs_of(step, composing)
            outputs = [each.name for each in composing.outputs]
            for link in step.outputs:
                if link.key not in outputs:
                    free = set(outputs) - {each.key for each in step.outputs}
                    advice = did_you_mean(link.key, free or outputs, f"outputs of {step.model}")
                    yield NO_OUTPUT.at(link.where, f"{step.model} has no output {link.key!r}", advice)


def _inputs_of(step: ConfiguredStep, composing: Config) -> Iterator[Finding]:
    inputs = {each.name: each for each in composing.inputs}
    mapped = {link.key for link in step.inputs}
    missing = [name for name, each in inputs.items() if name not in mapped and not each.optional]
    meant = set()
    for link in step.inputs:
        if link.key not in inputs:
            free = set(inputs) - mapped
            meant.add(closest(link.key, free))
            advice = did_you_mean(link.key, free or inputs, f"inputs of {step.model}")
            yield NO_INPUT.at(link.where, f"{step.model} has no input {link.key!r}", advice)
    for name in missing:
        if name not in meant:  # else it was misspelt, which has been said
            advice = f'add input_map {{ key: "{name}" value: "..." }}, or make it optional'
            yield NOT_MAPPED.at(step.where, f"input {name} of {step.model} is not mapped", advice)


@check(NOT_PRODUCED, PRODUCED_TWICE, NOT_USED, INPUT_NOT_USED, OUTPUT_NOT_PRODUCED, CYCLE)
def flow(view: View) -> Iterator[Finding]:
    """Every tensor has one producer and a consumer, and no step waits for itself."""
    for config in view.ensembles:
        data = Flow.of(view, config)
        unused = data.unused
        for name, uses in data.consumers.items():
            if name in data.producers:
                continue
            for use in uses:
                code_ = OUTPUT_NOT_PRODUCED if use.is_border else NOT_PRODUCED
                advice = _nearest_tensor(name, unused, data)
                yield code_.at(use.where, f"nothing produces {name!r}", advice)
        for name, uses in data.producers.items():
            for use in uses[1:]:
                what = f"{name!r} is already produced by {uses[0].who} (line {uses[0].where.line})"
                yield PRODUCED_TWICE.at(use.where, what, "give one of them another name")
        for name in unused:
            use = data.producers[name][0]
            if use.is_border:
                advice = "map it in a step, or leave the input out"
                yield INPUT_NOT_USED.at(use.where, f"no step reads the input {name!r}", advice)
            else:
                what = f"nothing reads {name!r}, an output of {use.who}"
                lost = [each for each in data.consumers if each not in data.producers]
                meant = closest(name, lost)
                advice = f"did you mean {meant!r}?" if meant else "leave the entry out, or declare it as an output"
                yield NOT_USED.at(use.where, what, advice)
        for link, steps_of in first_loops(config):
            names = " and ".join(dict.fromkeys(step.model for step in steps_of))
            what = f"{link.tensor!r} comes from a step that waits for this one: {names}"
            yield CYCLE.at(link.where, what, "read a tensor of an earlier step")


def _nearest_tensor(name: str, unused: list[str], data: Flow) -> str:
    if meant := closest(name, unused):
        return f"did you mean {meant!r}, which is produced and not used?"
    if meant := closest(name, data.producers):
        return f"did you mean {meant!r}?"
    return "map it in the output_map of a step, or declare it as an input"


@check(TYPES, SHAPES, FIXED_SIZE)
def edges(view: View) -> Iterator[Finding]:
    """Types and shapes fit between the producer of a tensor and each of its consumers."""
    for config in view.ensembles:
        data = Flow.of(view, config)
        for name, uses in data.consumers.items():
            producer = data.producers.get(name, [None])[0]
            for use in uses:
                if producer is not None:
                    yield from _edge(view, name, producer, use)


def _edge(view: View, name: str, producer: Use, consumer: Use) -> Iterator[Finding]:
    source, target = producer.tensor, consumer.tensor
    if source is None or target is None or any(view.is_reported(each) for each in _declarations(producer, consumer)):
        return
    what = f"{name!r} is {source} from {producer.who}, and {target} to {consumer.who}"
    advice = f"make {_place(producer)} and {_place(consumer)} agree"
    if source.data_type != target.data_type:
        yield TYPES.at(consumer.where, what, advice)
    elif not compatible(source, target):
        yield SHAPES.at(consumer.where, what, advice)
    elif source.data_type != "INVALID" and any(
        mine == -1 and other != -1 for mine, other in zip(source.full_dims, target.full_dims, strict=False)
    ):
        yield FIXED_SIZE.at(consumer.where, what, advice)


def _declarations(*uses: Use) -> Iterator[Where]:
    """The lines that declare the tensors of some uses."""
    for use in uses:
        if use.tensor is not None:
            yield from (use.tensor.where, use.tensor.place("data_type"), use.tensor.place("dims"))


def _place(use: Use) -> str:
    where = use.tensor.where if use.tensor else use.where
    folder = where.path.parent.parent if where.path.parent.name == "configs" else where.path.parent
    return f"{where.path.relative_to(folder.parent)}:{where.line}"


@check(OPTIONAL)
def optional_inputs(view: View) -> Iterator[Finding]:
    """What callers may leave out, no step requires."""
    for config in view.ensembles:
        data = Flow.of(view, config)
        for tensor in config.inputs:
            for use in data.consumers.get(tensor.name, []):
                if tensor.optional and use.tensor is not None and not use.is_border and not use.tensor.optional:
                    if view.is_reported(use.tensor.where):
                        continue
                    what = f"{tensor.name} is optional to {config.model}, and {use.who} requires it"
                    advice = f"add optional: true at {_place(use)}, or leave it out at line {tensor.where.line} here"
                    yield OPTIONAL.at(use.where, what, advice)


@dataclass(frozen=True)
class _Reach:
    """What is reached from the ensembles, directly or through a stage's calls."""

    models: frozenset[str]
    calls: tuple[tuple[Config, str], ...]
    """(stage, engine that it calls)."""


def _reach(view: View) -> _Reach:
    waiting = [config.model for config in view.ensembles]
    found: set[str] = set()
    calls = []
    while waiting:
        name = waiting.pop()
        config = view.configs.get(name)
        if name in found or config is None:
            found.add(name)
            continue
        found.add(name)
        waiting += [step.model for step in config.steps]
        known = declared_model(name)
        for engine in known.calls if known else ():
            calls.append((config, engine))
            waiting.append(engine)
    return _Reach(frozenset(found), tuple(calls))


@check(NO_ENSEMBLE, NO_ENGINE, UNREACHED, NESTING)
def reach(view: View) -> Iterator[Finding]:
    """Every model is reached from an ensemble, and all that is reached exists."""
    absent = [name for name, known in MODELS.items() if known.public and not view.exists(name)]
    others = [model for model in view.repository.models if model not in MODELS]
    for name in absent:
        where = Where(view.repository.folder)
        yield NO_ENSEMBLE.at(where, f"there is no {name}", did_you_mean(name, others, "other models"))
    reached = _reach(view)
    for config, engine in reached.calls:
        if not view.exists(engine):
            advice = did_you_mean(engine, others, "other models")
            where = config.place("backend")
            yield NO_ENGINE.at(where, f"{config.model} calls the engine {engine}, which does not exist", advice)
    yield from _nesting(view)
    if absent or view.has_unreadable or any(finding.code == NO_MODEL for finding in view.findings):
        return  # what cannot be read, or is misspelt, might reach the others
    for name in view.configs.keys() - reached.models:
        if base_name(name) not in reached.models:
            config = view.repository.models[name].configs.get("cpu") or view.configs[name]
            advice = "use it in a step, or remove its folder"
            yield UNREACHED.at(config.place("backend"), f"no ensemble reaches {name}", advice)


def _nesting(view: View) -> Iterator[Finding]:
    for config in view.ensembles:
        for step in config.steps:
            if (inner := view.configs.get(step.model)) and config.model in _ensembles_in(view, inner, set()):
                what = f"{config.model} contains itself through {step.model}"
                yield NESTING.at(step.where, what, "take the step out of one of them")


def _ensembles_in(view: View, config: Config, seen: set[str]) -> set[str]:
    """Names of a model and of all that it contains."""
    if config.model in seen:
        return seen
    seen.add(config.model)
    for step in config.steps:
        if inner := view.configs.get(step.model):
            _ensembles_in(view, inner, seen)
    return seen
