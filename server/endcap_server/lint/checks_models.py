"""One model's settings: backend, batching, instances, and its tensors against what its code reads and writes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from tritonclient.grpc import model_config_pb2

from endcap_server.declared.model import DeclaredTensor
from endcap_server.lint.finding import Finding, Where, code, did_you_mean
from endcap_server.lint.registry import check
from endcap_server.lint.repository import CONFIG, Config, ConfiguredTensor, View
from endcap_server.models import ENGINES, base_name, declared_model

BACKEND = code("E201", "the backend cannot run", "Triton does not load the model")
BATCHING = code("E202", "batching settings contradict each other", "Triton refuses them, or the model's code does")
NO_EFFECT = code("W203", "a setting has no effect", "whoever set it expected one")
QUEUE_REJECTS = code(
    "W204", "a queue policy rejects requests of ensembles", "before Triton 26.03 a rejected step hangs its ensemble"
)
TENSOR = code("E205", "a tensor is declared wrongly", "Triton refuses the configuration, or guesses what is meant")
UNKNOWN_TENSOR = code("E206", "the model's code knows no such tensor", "it is never read, or never written")
MISSING_TENSOR = code(
    "E207", "a tensor that the model needs is missing", "every request fails, or callers' code breaks"
)
OTHER_TENSOR = code(
    "E208", "a tensor is not what the model's code takes or gives", "requests fail, or answers are wrong"
)
INSTANCES = code("E209", "the instance group does not fit", "Triton refuses it, or the machine cannot bear it")
MORE_INSTANCES = code(
    "W210", "an engine has several instances", "each holds a model of its own and batches only its own requests"
)
GUESSED_KIND = code(
    "W211", "the instances' kind is left to Triton", "on a machine with GPUs it starts one instance for each of them"
)
DECOUPLED = code(
    "E212", "the model is decoupled", "its ensembles refuse plain requests, and stages cannot call it through BLS"
)
WRONG_DEVICE = code(
    "E213", "parameters and instance kind disagree on the device", "the engine fails to load, or leaves the GPU idle"
)
GPU_FALLBACK = code("W214", "an engine has no GPU configuration", "with --profile gpu it runs on the CPU")

BACKENDS = ("python",)
"""Backends that the launcher gives the server."""

MAX_INSTANCES = 64
"""Each instance is a process with a model of its own."""

_Group = model_config_pb2.ModelInstanceGroup
_ENSEMBLE_REFUSES = ("instance_group", "optimization", "model_warmup", "backend")


@check(BACKEND)
def backends(view: View) -> Iterator[Finding]:
    """The backend is one that the server has; an ensemble has none."""
    for config in view.configs.values():
        proto = config.proto
        if config.is_ensemble:
            if proto.platform != "ensemble":
                where = config.place("platform" if proto.platform else "ensemble_scheduling")
                advice = 'write platform: "ensemble"'
                yield BACKEND.at(where, f"{config.model} has steps and platform {proto.platform!r}", advice)
            for name in _ENSEMBLE_REFUSES:
                if config.document.root.all(name):
                    yield BACKEND.at(config.place(name), f"the ensemble {config.model} has {name}", "leave it out")
        elif proto.backend not in BACKENDS:
            what = f"backend {proto.backend!r}" if proto.backend else "no backend"
            advice = did_you_mean(proto.backend, BACKENDS, "backends")
            yield BACKEND.at(config.place("backend"), f"{config.model} has {what}", advice)
        elif proto.platform:
            advice = "leave platform out"
            yield BACKEND.at(config.place("platform"), f"platform {proto.platform!r} with backend python", advice)


@check(BATCHING, NO_EFFECT, QUEUE_REJECTS)
def batching(view: View) -> Iterator[Finding]:
    """The batching settings can all be had together."""
    for config in view.configs.values():
        proto, most = config.proto, config.proto.max_batch_size
        if most < 0:
            yield BATCHING.at(config.place("max_batch_size"), f"max_batch_size {most}", "0 for none, or more")
        dynamic = proto.dynamic_batching
        if proto.HasField("dynamic_batching") and (most <= 0 or config.is_ensemble):
            what = "an ensemble" if config.is_ensemble else "max_batch_size 0"
            advice = "leave it out: endcap's engines batch on their own"
            yield NO_EFFECT.at(config.place("dynamic_batching"), f"dynamic_batching with {what}", advice)
        sizes = [size for size in dynamic.preferred_batch_size if size < 1 or size > max(most, 0)]
        if sizes:
            where = config.place("dynamic_batching", "preferred_batch_size")
            yield BATCHING.at(where, f"preferred_batch_size {sizes[0]}", f"1 to max_batch_size ({most})")
        if dynamic.priority_levels and not 1 <= dynamic.default_priority_level <= dynamic.priority_levels:
            where = config.place("dynamic_batching", "priority_levels")
            advice = f"set default_priority_level, 1 to {dynamic.priority_levels}"
            yield BATCHING.at(where, f"default_priority_level {dynamic.default_priority_level}", advice)
        if dynamic.default_queue_policy.max_queue_size:
            where = config.place("dynamic_batching", "default_queue_policy", "max_queue_size")
            what = f"{config.model} rejects requests beyond max_queue_size"
            yield QUEUE_REJECTS.at(where, what, "leave it out: deadlines drop what comes too late")
        if proto.HasField("sequence_batching") and declared_model(config.model):
            advice = "leave it out"
            yield BATCHING.at(config.place("sequence_batching"), f"{config.model} knows no sequences", advice)


@check(TENSOR)
def tensors(view: View) -> Iterator[Finding]:
    """Every tensor has a name, a type and dimensions of its own."""
    for config in view.configs.values():
        for kind, found in (("input", config.inputs), ("output", config.outputs)):
            times = Counter(each.name for each in found)
            if not found and config.is_ensemble:
                yield TENSOR.at(config.place(), f"{config.model} declares no {kind}", f"write its {kind} tensors")
            for each in found:
                yield from _one_tensor(each, kind)
                times[each.name] -= 1
                if times[each.name] > 0 and each.name:
                    later = next(other for other in reversed(found) if other.name == each.name)
                    yield TENSOR.at(later.where, f"{kind} {each.name} is declared twice", "keep one of them")


def _one_tensor(tensor: ConfiguredTensor, kind: str) -> Iterator[Finding]:
    if not tensor.name:
        yield TENSOR.at(tensor.where, f"an {kind} has no name", "give it one")
    if tensor.data_type == "INVALID":
        yield TENSOR.at(tensor.where, f"{kind} {tensor.name} has no data_type", "write data_type: TYPE_...")
    if not tensor.dims and not tensor.source.all("reshape"):
        yield TENSOR.at(tensor.where, f"{kind} {tensor.name} has no dims", "write dims, -1 for any size")
    wrong = [each for each in tensor.dims if each < 1 and each != -1]
    if wrong:
        advice = "1 or more, or -1 for any size"
        yield TENSOR.at(tensor.place("dims"), f"{kind} {tensor.name} has the dimension {wrong[0]}", advice)
    if tensor.source.all("is_shape_tensor") or tensor.source.all("is_non_linear_format_io"):
        place = "is_shape_tensor" if tensor.source.all("is_shape_tensor") else "is_non_linear_format_io"
        yield TENSOR.at(tensor.place(place), f"{place} of {kind} {tensor.name} is for TensorRT models", "leave it out")


@check(UNKNOWN_TENSOR, MISSING_TENSOR, OTHER_TENSOR)
def signatures(view: View) -> Iterator[Finding]:
    """The tensors of endcap's own models are those of their code, and an ensemble's those of its contract."""
    for config in view.configs.values():
        known = declared_model(config.model)
        if known is None:
            continue
        for kind, found, expected in (
            ("input", config.inputs, known.inputs),
            ("output", config.outputs, known.outputs),
        ):
            by_name = {each.name: each for each in expected}
            unknown = [each for each in found if each.name and each.name not in by_name]
            for tensor in unknown:
                missing = by_name.keys() - {each.name for each in found}
                advice = did_you_mean(tensor.name, missing or by_name, f"{kind}s of {base_name(config.model)}")
                yield UNKNOWN_TENSOR.at(tensor.where, f"{config.model} has no {kind} {tensor.name}", advice)
            yield from _missing(config, known.public, kind, found, expected, len(unknown))
            for tensor in found:
                if tensor.name in by_name and not view.is_reported(tensor.where):
                    yield from _differs(tensor, by_name[tensor.name], kind, known.public)


def _missing(
    config: Config,
    public: bool,
    kind: str,
    found: Sequence[ConfiguredTensor],
    expected: Sequence[DeclaredTensor],
    unknown: int,
) -> Iterator[Finding]:
    """Tensors without which the model cannot work; a misspelt one has been reported already."""
    absent = [each for each in expected if each.name not in {tensor.name for tensor in found}]
    # A stage answers the outputs that are asked for: one that no ensemble asks for may be left out.
    needed = [each for each in absent if public or (kind == "input" and not each.optional)]
    for each in needed[unknown:] if unknown else needed:
        where = config.place(kind) if found else config.place()
        line = f'{{ name: "{each.name}" data_type: TYPE_{each.data_type} dims: {list(each.dims)} }}'
        yield MISSING_TENSOR.at(where, f"{config.model} lacks its {kind} {each.name}", f"add {line}")


def _differs(tensor: ConfiguredTensor, known: DeclaredTensor, kind: str, public: bool) -> Iterator[Finding]:
    if tensor.data_type != known.data_type and tensor.data_type != "INVALID":
        yield OTHER_TENSOR.at(
            tensor.place("data_type"),
            f"{kind} {tensor.name} is {tensor.data_type}, expected {known.data_type}",
            f"write data_type: TYPE_{known.data_type}",
        )
    elif tensor.dims and not _covers(tensor.full_dims, known.dims, public):
        yield OTHER_TENSOR.at(
            tensor.place("dims"),
            f"{kind} {tensor.name} has the shape {list(tensor.full_dims)}, expected {list(known.dims)}",
            f"write dims: {list(known.dims)}" + (" and max_batch_size: 0" if tensor.batching else ""),
        )
    if tensor.optional != known.optional and (public or tensor.optional):
        word = "optional" if known.optional else "required"
        advice = "add optional: true" if known.optional else "leave optional out"
        yield OTHER_TENSOR.at(tensor.place("optional"), f"{kind} {tensor.name} is {word} to the model", advice)


def _covers(dims: tuple[int, ...], known: tuple[int, ...], exactly: bool) -> bool:
    """Whether a declared shape lets every shape through that the code may give or take."""
    if exactly:
        return dims == known
    return len(dims) == len(known) and all(mine in (-1, code) for mine, code in zip(dims, known, strict=True))


@check(INSTANCES, MORE_INSTANCES, GUESSED_KIND, DECOUPLED, GPU_FALLBACK)
def instances(view: View) -> Iterator[Finding]:
    """Instance groups name devices that the profile has, and numbers that a machine can bear."""
    for config in view.configs.values():
        if config.is_ensemble:
            continue
        if config.proto.model_transaction_policy.decoupled:
            where = config.place("model_transaction_policy", "decoupled")
            yield DECOUPLED.at(where, f"{config.model} is decoupled", "leave model_transaction_policy out")
        sources = config.document.root.all("instance_group")
        if not sources and declared_model(config.model):
            what = f"{config.model} has no instance_group"
            yield GUESSED_KIND.at(config.place("backend"), what, "write instance_group [ { kind: KIND_CPU count: 1 } ]")
        for group, source in zip(config.proto.instance_group, sources, strict=True):
            place = {each.name: Where(config.path, each.line) for each in source.fields}
            start = Where(config.path, source.line)
            yield from _group(config, group, place, start)
        if view.profile == "gpu" and base_name(config.model) in ENGINES and config.path.name == CONFIG:
            path = config.folder / "configs" / "gpu.pbtxt"
            yield GPU_FALLBACK.at(Where(config.folder), f"{config.model} has no configs/gpu.pbtxt", f"write {path}")


def _group(config: Config, group: Any, place: dict[str, Where], start: Where) -> Iterator[Finding]:
    kind, on_gpu = _Group.Kind.Name(group.kind), group.kind == _Group.KIND_GPU
    kind_where = place.get("kind", start)
    if on_gpu and config.path.name == CONFIG:
        # The CPU profile is also what a model without configs/gpu.pbtxt gets on a GPU machine.
        what = f"KIND_GPU in {CONFIG}, which the CPU profile reads"
        yield INSTANCES.at(kind_where, what, "write KIND_CPU here, and KIND_GPU in configs/gpu.pbtxt")
    if on_gpu and base_name(config.model) not in ENGINES and config.path.name != CONFIG:
        yield INSTANCES.at(kind_where, f"{config.model} runs on the CPU alone", "write KIND_CPU")
    if not on_gpu and group.gpus and group.kind != _Group.KIND_AUTO:
        yield INSTANCES.at(place.get("gpus", start), f"gpus with {kind}", "leave gpus out, or write KIND_GPU")
    if any(number < 0 for number in group.gpus):
        yield INSTANCES.at(place["gpus"], f"GPU {min(group.gpus)}", "GPUs are counted from 0")
    if group.count < 0 or group.count > MAX_INSTANCES or ("count" in place and group.count == 0):
        what = f"{group.count} instances of {config.model}"
        yield INSTANCES.at(place.get("count", start), what, f"1 to {MAX_INSTANCES}; every one is a process")
    elif group.count > 1 and base_name(config.model) in ENGINES:
        what = f"{group.count} instances of the engine {config.model}"
        yield MORE_INSTANCES.at(place.get("count", start), what, "count: 1; raise its threads or batch limits instead")
    if group.kind == _Group.KIND_AUTO and declared_model(config.model):
        yield GUESSED_KIND.at(kind_where, f"the instances of {config.model} have {kind}", "write KIND_CPU or KIND_GPU")
    if group.profile:
        yield INSTANCES.at(place["profile"], "profile is for TensorRT models", "leave it out")


@check(WRONG_DEVICE)
def devices(view: View) -> Iterator[Finding]:
    """What an engine's parameters ask for is where its instances are."""
    for config in view.configs.values():
        engine = ENGINES.get(base_name(config.model))
        kinds = {group.kind for group in config.proto.instance_group}
        if engine is None or not kinds:
            continue
        defaults = engine.parameters()
        asked = {name: config.parameter(name) for name in engine.devices}
        on_gpu = [
            name
            for name, devices in engine.devices.items()
            if devices.get(each.value if (each := asked[name]) else getattr(defaults, name)) == "gpu"
        ]
        if on_gpu and kinds.isdisjoint({_Group.KIND_GPU}):
            parameter = asked[on_gpu[0]]
            assert parameter is not None  # defaults need no GPU
            advice = "set it in configs/gpu.pbtxt, with KIND_GPU"
            what = f"{parameter.key} {parameter.value!r} needs a GPU, and the instances are on the CPU"
            yield WRONG_DEVICE.at(parameter.value_where, what, advice)
        elif not on_gpu and _Group.KIND_GPU in kinds and config.path.name != CONFIG:
            what = f"{config.model} has KIND_GPU, and none of its parameters uses a GPU"
            where = next((each.value_where for each in asked.values() if each), config.place("instance_group"))
            yield WRONG_DEVICE.at(where, what, f"set {' or '.join(engine.devices)}")
