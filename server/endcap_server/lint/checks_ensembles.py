"""Checks of ensembles: models and tensors of the steps, data flow, types and shapes."""

from collections.abc import Generator, Iterator, Sequence

from endcap_server.lint.dataflow import Flow, Use, compatible, first_loop
from endcap_server.lint.finding import Code, Finding, Where, closest, code, did_you_mean
from endcap_server.lint.registry import check, check_each
from endcap_server.lint.repository import Config, ConfiguredStep, ConfiguredTensor, Link, View
from endcap_server.models import ENSEMBLES, MODELS, base_name

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


@check_each(STEP, NO_MODEL, NO_STEP_VERSION, BATCH_SIZE, ensembles=True)
def steps(view: View, config: Config) -> Iterator[Finding]:
    """Steps are complete, and their models exist in the required version and batch size."""
    if not config.steps:
        where = config.place("ensemble_scheduling" if config.proto.HasField("ensemble_scheduling") else "platform")
        yield STEP.at(where, f"{config.model} has no step", "write ensemble_scheduling { step [ ... ] }")
    for step in config.steps:
        for name, links in (("input_map", step.inputs), ("output_map", step.outputs)):
            if not links:
                yield STEP.at(step.where, f"step {step.number} has no {name}", "map its tensors")
        if not step.model:
            yield STEP.at(step.source.where, f"step {step.number} has no model_name", "name one")
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
        what = f"step {step.number} asks for version {step.version} of {step.model}"
        advice = f"write -1 for the newest; there are: {', '.join(map(str, versions)) or 'none'}"
        yield NO_STEP_VERSION.at(step.source.place("model_version"), what, advice)
    most = config.proto.max_batch_size
    if composing is not None and 0 < composing.proto.max_batch_size < most:
        what = f"{config.model} takes batches of {most}, its step {step.model} of {composing.proto.max_batch_size}"
        advice = f"raise max_batch_size of {step.model}, or lower this one"
        yield BATCH_SIZE.at(config.place("max_batch_size"), what, advice)


@check_each(NO_INPUT, NO_OUTPUT, NOT_MAPPED, MAPPED_TWICE, ensembles=True)
def maps(view: View, config: Config) -> Iterator[Finding]:
    """The maps of each step name existing tensors of its model, each once, and all required ones."""
    for step in config.steps:
        for links in (step.inputs, step.outputs):
            keys = [link.key for link in links]
            for position, link in enumerate(links):
                if link.key in keys[:position]:
                    yield MAPPED_TWICE.at(link.where, f"{link.key} of {step.model} is mapped twice", "keep one of them")
        composing = view.configs.get(step.model)
        if composing is None:
            continue
        meant = yield from _unknown_keys(NO_INPUT, "input", step, step.inputs, composing.inputs)
        yield from _unknown_keys(NO_OUTPUT, "output", step, step.outputs, composing.outputs)
        for each in composing.inputs:
            # A misspelt one was reported above.
            if not each.optional and each.name not in {*meant, *(link.key for link in step.inputs)}:
                advice = f'add input_map {{ key: "{each.name}" value: "..." }}, or make it optional'
                yield NOT_MAPPED.at(step.where, f"input {each.name} of {step.model} is not mapped", advice)


def _unknown_keys(
    code: Code, kind: str, step: ConfiguredStep, links: Sequence[Link], tensors: Sequence[ConfiguredTensor]
) -> Generator[Finding, None, set[str]]:
    """Entries that name no tensor of the step's model, and the names that were probably meant."""
    names = {each.name for each in tensors}
    free, meant = names - {link.key for link in links}, set()
    for link in links:
        if link.key not in names:
            meant.add(closest(link.key, free))
            advice = did_you_mean(link.key, free or names, f"{kind}s of {step.model}")
            yield code.at(link.where, f"{step.model} has no {kind} {link.key!r}", advice)
    return meant


@check_each(NOT_PRODUCED, PRODUCED_TWICE, NOT_USED, INPUT_NOT_USED, OUTPUT_NOT_PRODUCED, CYCLE, ensembles=True)
def flow(view: View, config: Config) -> Iterator[Finding]:
    """Every tensor has one producer and a consumer, and no step waits for itself."""
    data = Flow.of(view, config)
    unused = data.unused
    lost = [name for name in data.consumers if name not in data.producers]
    for name in lost:
        for use in data.consumers[name]:
            kind = OUTPUT_NOT_PRODUCED if use.is_border else NOT_PRODUCED
            yield kind.at(use.where, f"nothing produces {name!r}", _nearest_tensor(name, unused, data))
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
            meant = closest(name, lost)
            advice = f"did you mean {meant!r}?" if meant else "leave the entry out, or declare it as an output"
            yield NOT_USED.at(use.where, f"nothing reads {name!r}, an output of {use.who}", advice)
    if loop := first_loop(config):
        link, waiting = loop
        names = " and ".join(dict.fromkeys(step.model for step in waiting))
        what = f"{link.tensor!r} comes from a step that waits for this one: {names}"
        yield CYCLE.at(link.where, what, "read a tensor of an earlier step")


def _nearest_tensor(name: str, unused: list[str], data: Flow) -> str:
    if meant := closest(name, unused):
        return f"did you mean {meant!r}, which is produced and not used?"
    if meant := closest(name, data.producers):
        return f"did you mean {meant!r}?"
    return "map it in the output_map of a step, or declare it as an input"


@check_each(TYPES, SHAPES, FIXED_SIZE, ensembles=True)
def edges(view: View, config: Config) -> Iterator[Finding]:
    """Types and shapes match between the producer of a tensor and its consumers."""
    data = Flow.of(view, config)
    for name, uses in data.consumers.items():
        for use in uses if name in data.producers else ():
            yield from _edge(view, name, data.producers[name][0], use)


def _edge(view: View, name: str, producer: Use, consumer: Use) -> Iterator[Finding]:
    source, target = producer.tensor, consumer.tensor
    if source is None or target is None:
        return
    declared = (each.source.place(field) for each in (source, target) for field in ("name", "data_type", "dims"))
    if any(map(view.is_reported, declared)):
        return
    what = f"{name!r} is {source} from {producer.who}, and {target} to {consumer.who}"
    advice = f"make {_place(source)} and {_place(target)} agree"
    if source.data_type != target.data_type:
        yield TYPES.at(consumer.where, what, advice)
    elif not compatible(source, target):
        yield SHAPES.at(consumer.where, what, advice)
    elif source.data_type != "INVALID" and any(
        mine == -1 and other != -1 for mine, other in zip(source.full_dims, target.full_dims, strict=False)
    ):
        yield FIXED_SIZE.at(consumer.where, what, advice)


def _place(tensor: ConfiguredTensor) -> str:
    path = tensor.where.path
    root = path.parents[2] if path.parent.name == "configs" else path.parents[1]
    return f"{path.relative_to(root)}:{tensor.where.line}"


@check_each(OPTIONAL, ensembles=True)
def optional_inputs(view: View, config: Config) -> Iterator[Finding]:
    """No step requires an input that callers may omit."""
    data = Flow.of(view, config)
    for tensor in config.inputs:
        for use in data.consumers.get(tensor.name, []) if tensor.optional else ():
            if use.tensor is None or use.is_border or use.tensor.optional or view.is_reported(use.tensor.where):
                continue
            what = f"{tensor.name} is optional to {config.model}, and {use.who} requires it"
            advice = f"add optional: true at {_place(use.tensor)}, or leave it out at line {tensor.where.line} here"
            yield OPTIONAL.at(use.where, what, advice)


@check(NO_ENSEMBLE, NO_ENGINE, UNREACHED, NESTING)
def reach(view: View) -> Iterator[Finding]:
    """Every model is reached from an ensemble, every reached model exists, and no ensemble contains itself."""
    absent = [name for name in ENSEMBLES if not view.exists(name)]
    others = [model for model in view.repository.models if model not in MODELS]
    for name in absent:
        where = Where(view.repository.folder)
        yield NO_ENSEMBLE.at(where, f"there is no {name}", did_you_mean(name, others, "other models"))
    reached = view.reached(config.model for config in view.ensembles)
    for config in (view.configs[name] for name in reached):
        for engine, model in config.engines.items():
            if not view.exists(model):
                what = f"{config.model} calls the engine {engine}, which does not exist"
                yield NO_ENGINE.at(config.place("backend"), what, did_you_mean(model, others, "other models"))
    for config in view.ensembles:
        for step in config.steps:
            if config.model in view.reached([step.model]):
                what = f"{config.model} contains itself through {step.model}"
                yield NESTING.at(step.where, what, "take the step out of one of them")
    if absent or view.has_unreadable or any(finding.code == NO_MODEL for finding in view.findings):
        return  # an unreadable or misspelt one could reach the others
    for name in view.configs:
        if name not in reached and base_name(name) not in reached:
            config = view.repository.models[name].configs.get("cpu") or view.configs[name]
            what = f"no ensemble reaches {name}"
            yield UNREACHED.at(config.place("backend"), what, "use it in a step, or remove its folder")
