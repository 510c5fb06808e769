"""Checks of single models: backend, batching, instances, and tensors compared with the code's declaration."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tritonclient.grpc import model_config_pb2

from endcap_server.declared.model import DeclaredTensor
from endcap_server.lint.finding import Finding, Where, code, did_you_mean
from endcap_server.lint.pbtxt import Field
from endcap_server.lint.registry import check_each
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
CACHED = code(
    "E401",
    "a model with Triton's response cache",
    "Triton keeps the empty answer of a request that was cancelled, and all equal requests get it; deadlines are part "
    "of the inputs, and which outputs were asked for is no part of the key",
)

BACKENDS = ("python",)
"""Backends that the launcher provides to the server."""

MAX_INSTANCES = 64
"""Limit; each instance is a process with its own copy of the model."""

_Group = model_config_pb2.ModelInstanceGroup
_ENSEMBLE_REFUSES = ("instance_group", "optimization", "model_warmup", "backend")


@check_each(BACKEND)
def backends(view: View, config: Config) -> Iterator[Finding]:
    """The backend is one that the server has; an ensemble has none."""
    model, proto = config.model, config.proto
    if config.is_ensemble:
        if proto.platform != "ensemble":
            where = config.place("platform" if proto.platform else "ensemble_scheduling")
            yield BACKEND.at(where, f"{model} has steps and platform {proto.platform!r}", 'write platform: "ensemble"')
        for name in _ENSEMBLE_REFUSES:
            if config.source.all(name):
                yield BACKEND.at(config.place(name), f"the ensemble {model} has {name}", "leave it out")
    elif proto.backend not in BACKENDS:
        what = f"backend {proto.backend!r}" if proto.backend else "no backend"
        advice = did_you_mean(proto.backend, BACKENDS, "backends")
        yield BACKEND.at(config.place("backend"), f"{model} has {what}", advice)
    elif proto.platform:
        what = f"platform {proto.platform!r} with backend python"
        yield BACKEND.at(config.place("platform"), what, "leave platform out")


@check_each(BATCHING, NO_EFFECT, QUEUE_REJECTS)
def batching(view: View, config: Config) -> Iterator[Finding]:
    """The batching settings are compatible."""
    proto, most = config.proto, config.proto.max_batch_size
    dynamic = proto.dynamic_batching
    if most < 0:
        yield BATCHING.at(config.place("max_batch_size"), f"max_batch_size {most}", "0 for none, or more")
    if proto.HasField("dynamic_batching") and (most <= 0 or config.is_ensemble):
        what = f"dynamic_batching with {'an ensemble' if config.is_ensemble else 'max_batch_size 0'}"
        yield NO_EFFECT.at(config.place("dynamic_batching"), what, "leave it out: endcap's engines batch on their own")
    for size in [size for size in dynamic.preferred_batch_size if not 1 <= size <= most][:1]:
        where = config.place("dynamic_batching", "preferred_batch_size")
        yield BATCHING.at(where, f"preferred_batch_size {size}", f"1 to max_batch_size ({most})")
    if dynamic.priority_levels and not 1 <= dynamic.default_priority_level <= dynamic.priority_levels:
        where = config.place("dynamic_batching", "priority_levels")
        advice = f"set default_priority_level, 1 to {dynamic.priority_levels}"
        yield BATCHING.at(where, f"default_priority_level {dynamic.default_priority_level}", advice)
    if dynamic.default_queue_policy.max_queue_size:
        where = config.place("dynamic_batching", "default_queue_policy", "max_queue_size")
        what = f"{config.model} rejects requests beyond max_queue_size"
        yield QUEUE_REJECTS.at(where, what, "leave it out: deadlines drop what comes too late")
    if proto.HasField("sequence_batching") and declared_model(config.model):
        what = f"{config.model} knows no sequences"
        yield BATCHING.at(config.place("sequence_batching"), what, "leave it out")


@check_each(CACHED)
def caches(view: View, config: Config) -> Iterator[Finding]:
    """No model enables Triton's response cache."""
    if config.proto.response_cache.enable:
        advice = "leave response_cache out; theme and keywords keep whole answers by themselves (cache_entries)"
        yield CACHED.at(config.place("response_cache", "enable"), f"{config.model} has a response cache", advice)


@check_each(TENSOR)
def tensors(view: View, config: Config) -> Iterator[Finding]:
    """Every tensor has a unique name, a type and dimensions."""
    for kind, found in (("input", config.inputs), ("output", config.outputs)):
        if not found and config.is_ensemble:
            yield TENSOR.at(config.place(), f"{config.model} declares no {kind}", f"write its {kind} tensors")
        for each in found:
            yield from _one_tensor(each, kind)
        latest = {each.name: each for each in found}
        for name, times in Counter(each.name for each in found if each.name).items():
            if times > 1:
                yield TENSOR.at(latest[name].where, f"{kind} {name} is declared twice", "keep one of them")


def _one_tensor(tensor: ConfiguredTensor, kind: str) -> Iterator[Finding]:
    if not tensor.name:
        yield TENSOR.at(tensor.where, f"an {kind} has no name", "give it one")
    if tensor.data_type == "INVALID":
        yield TENSOR.at(tensor.where, f"{kind} {tensor.name} has no data_type", "write data_type: TYPE_...")
    if not tensor.dims and not tensor.source.all("reshape"):
        yield TENSOR.at(tensor.where, f"{kind} {tensor.name} has no dims", "write dims, -1 for any size")
    for wrong in [each for each in tensor.dims if each < 1 and each != -1][:1]:
        what = f"{kind} {tensor.name} has the dimension {wrong}"
        yield TENSOR.at(tensor.source.place("dims"), what, "1 or more, or -1 for any size")
    for name in ("is_shape_tensor", "is_non_linear_format_io"):
        if found := tensor.source.all(name):
            what = f"{name} of {kind} {tensor.name} is for TensorRT models"
            yield TENSOR.at(found[0].where, what, "leave it out")


@check_each(UNKNOWN_TENSOR, MISSING_TENSOR, OTHER_TENSOR)
def signatures(view: View, config: Config) -> Iterator[Finding]:
    """The tensors of endcap's models match their code, and those of an ensemble its contract."""
    known = declared_model(config.model)
    if known is None:
        return
    for kind, found, expected in (("input", config.inputs, known.inputs), ("output", config.outputs, known.outputs)):
        by_name = {each.name: each for each in expected}
        absent = [each for each in expected if each.name not in {tensor.name for tensor in found}]
        unknown = [each for each in found if each.name and each.name not in by_name]
        for tensor in unknown:
            names = [each.name for each in absent or expected]
            advice = did_you_mean(tensor.name, names, f"{kind}s of {base_name(config.model)}")
            yield UNKNOWN_TENSOR.at(tensor.where, f"{config.model} has no {kind} {tensor.name}", advice)
        # A stage returns requested outputs only, so outputs that no ensemble uses may be omitted.
        needed = [each for each in absent if known.public or (kind == "input" and not each.optional)]
        for each in needed[len(unknown) :]:  # a misspelt one was reported above
            where = config.place(kind) if found else config.place()
            line = f'{{ name: "{each.name}" data_type: TYPE_{each.data_type} dims: {list(each.dims)} }}'
            yield MISSING_TENSOR.at(where, f"{config.model} lacks its {kind} {each.name}", f"add {line}")
        for tensor in found:
            if tensor.name in by_name and not view.is_reported(tensor.where):
                yield from _differs(tensor, by_name[tensor.name], kind, known.public)


def _differs(tensor: ConfiguredTensor, known: DeclaredTensor, kind: str, public: bool) -> Iterator[Finding]:
    name, place = f"{kind} {tensor.name}", tensor.source.place
    if tensor.data_type != known.data_type and tensor.data_type != "INVALID":
        what, advice = f"{name} is {tensor.data_type}, expected {known.data_type}", f"TYPE_{known.data_type}"
        yield OTHER_TENSOR.at(place("data_type"), what, f"write data_type: {advice}")
    elif tensor.dims and not _covers(tensor.full_dims, known.dims, public):
        what = f"{name} has the shape {list(tensor.full_dims)}, expected {list(known.dims)}"
        advice = f"write dims: {list(known.dims)}" + (" and max_batch_size: 0" if tensor.batching else "")
        yield OTHER_TENSOR.at(place("dims"), what, advice)
    if tensor.optional != known.optional and (public or tensor.optional):
        word = "optional" if known.optional else "required"
        advice = "add optional: true" if known.optional else "leave optional out"
        yield OTHER_TENSOR.at(place("optional"), f"{name} is {word} to the model", advice)


def _covers(dims: tuple[int, ...], known: tuple[int, ...], exactly: bool) -> bool:
    """Whether a configured shape allows every shape of the code's declaration."""
    if exactly:
        return dims == known
    return len(dims) == len(known) and all(mine in (-1, code) for mine, code in zip(dims, known, strict=True))


@check_each(INSTANCES, MORE_INSTANCES, GUESSED_KIND, DECOUPLED, GPU_FALLBACK)
def instances(view: View, config: Config) -> Iterator[Finding]:
    """Instance groups name devices of the profile and a reasonable number of instances."""
    if config.is_ensemble:
        return
    if config.proto.model_transaction_policy.decoupled:
        where = config.place("model_transaction_policy", "decoupled")
        yield DECOUPLED.at(where, f"{config.model} is decoupled", "leave model_transaction_policy out")
    groups = config.source.all("instance_group")
    if not groups and declared_model(config.model):
        what = f"{config.model} has no instance_group"
        yield GUESSED_KIND.at(config.place("backend"), what, "write instance_group [ { kind: KIND_CPU count: 1 } ]")
    for group, source in zip(config.proto.instance_group, groups, strict=True):
        yield from _group(config, group, source)
    if view.profile == "gpu" and base_name(config.model) in ENGINES and config.path.name == CONFIG:
        path = config.folder / "configs" / "gpu.pbtxt"
        yield GPU_FALLBACK.at(Where(config.folder), f"{config.model} has no configs/gpu.pbtxt", f"write {path}")


def _group(config: Config, group: Any, source: Field) -> Iterator[Finding]:
    kind, is_engine = _Group.Kind.Name(group.kind), base_name(config.model) in ENGINES
    in_cpu_profile, place = config.path.name == CONFIG, source.place
    if kind == "KIND_GPU" and in_cpu_profile:
        # A model without configs/gpu.pbtxt uses the CPU configuration on a GPU machine, too.
        what = f"KIND_GPU in {CONFIG}, which the CPU profile reads"
        yield INSTANCES.at(place("kind"), what, "write KIND_CPU here, and KIND_GPU in configs/gpu.pbtxt")
    if kind == "KIND_GPU" and not is_engine and not in_cpu_profile:
        yield INSTANCES.at(place("kind"), f"{config.model} runs on the CPU alone", "write KIND_CPU")
    if kind not in ("KIND_GPU", "KIND_AUTO") and group.gpus:
        yield INSTANCES.at(place("gpus"), f"gpus with {kind}", "leave gpus out, or write KIND_GPU")
    if any(number < 0 for number in group.gpus):
        yield INSTANCES.at(place("gpus"), f"GPU {min(group.gpus)}", "GPUs are counted from 0")
    if not 0 <= group.count <= MAX_INSTANCES or (source.all("count") and group.count == 0):
        what = f"{group.count} instances of {config.model}"
        yield INSTANCES.at(place("count"), what, f"1 to {MAX_INSTANCES}; every one is a process")
    elif group.count > 1 and is_engine:
        what = f"{group.count} instances of the engine {config.model}"
        yield MORE_INSTANCES.at(place("count"), what, "count: 1; raise its threads or batch limits instead")
    if kind == "KIND_AUTO" and declared_model(config.model):
        what = f"the instances of {config.model} have {kind}"
        yield GUESSED_KIND.at(place("kind"), what, "write KIND_CPU or KIND_GPU")
    if group.profile:
        yield INSTANCES.at(place("profile"), "profile is for TensorRT models", "leave it out")


@check_each(WRONG_DEVICE)
def devices(view: View, config: Config) -> Iterator[Finding]:
    """An engine's instances are on the device that its parameters require."""
    engine = ENGINES.get(base_name(config.model))
    kinds = {group.kind for group in config.proto.instance_group}
    if engine is None or not kinds:
        return
    asked = {name: parameter for name in engine.devices if (parameter := config.parameter(name))}
    # Defaults need no GPU.
    on_gpu = [each for name, each in asked.items() if engine.devices[name].get(each.value) == "gpu"]
    if on_gpu and _Group.KIND_GPU not in kinds:
        what = f"{on_gpu[0].key} {on_gpu[0].value!r} needs a GPU, and the instances are on the CPU"
        yield WRONG_DEVICE.at(on_gpu[0].value_where, what, "set it in configs/gpu.pbtxt, with KIND_GPU")
    elif not on_gpu and _Group.KIND_GPU in kinds and config.path.name != CONFIG:
        what = f"{config.model} has KIND_GPU, and none of its parameters uses a GPU"
        where = next((each.value_where for each in asked.values()), config.place("instance_group"))
        yield WRONG_DEVICE.at(where, what, f"set {' or '.join(engine.devices)}")
