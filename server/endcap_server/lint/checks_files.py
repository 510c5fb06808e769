"""Checks of files and folders: readability, names, version folders, model.py."""

import ast
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import model_config_pb2

from endcap_server.lint.finding import Finding, Where, closest, code, did_you_mean
from endcap_server.lint.pbtxt import Field
from endcap_server.lint.registry import check, check_each
from endcap_server.lint.repository import CONFIG, PROFILES, Config, View

UNREADABLE = code(
    "E101", "the configuration cannot be parsed", "Triton does not load the model, and keeps a running one"
)
NO_CONFIG = code(
    "E102", "a model folder has no config.pbtxt", "Triton does not complete configurations here, so it cannot load it"
)
OTHER_NAME = code("E103", "name is not the folder's name", "Triton refuses a model whose name differs from its folder")
NO_MODEL_FILE = code("E104", "there is no model.py to load", "Triton finds no version of the model that it can serve")
BAD_MODEL_FILE = code("E105", "model.py is not a model", "the Python backend fails to start the model's process")
NO_VERSION = code("E106", "a version that is asked for does not exist", "Triton finds no such version folder")
GIVEN_TWICE = code("E107", "a field is given twice", "only the last one counts, without a word from Triton")
NEWER_FIELD = code("E108", "a field is newer than the server", "Triton 24.10 refuses a configuration with it")
UNKNOWN_PROFILE = code("W109", "no profile of this name exists", "the file is never read")

NEWER_FIELDS: dict[str, str] = {
    "model_metrics": "25.02",
    "ensemble_scheduling.max_inflight_requests": "25.11",
}
"""Fields of the protobuf schema that Triton 24.10, which the CPU profile uses, refuses -> their release."""


@check(UNREADABLE)
def readable(view: View) -> Iterator[Finding]:
    """Every configuration file can be parsed."""
    for where, message in view.repository.broken:
        yield UNREADABLE.at(where, f"{where.path.name} cannot be read: {message}", _parse_advice(message))


@check(NO_CONFIG, UNKNOWN_PROFILE)
def folders(view: View) -> Iterator[Finding]:
    """Model folders have configurations with names that Triton reads."""
    for model in view.repository.models.values():
        if not model.has_config:
            where = Where(model.folder)
            yield NO_CONFIG.at(where, f"{model.name} has no {CONFIG}", f"write {model.folder / CONFIG}")
        known = {f"{profile}.pbtxt" for profile in PROFILES}
        for path in sorted((model.folder / "configs").glob("*")):
            if path.name not in known:
                advice = did_you_mean(path.stem, PROFILES, "profiles")
                yield UNKNOWN_PROFILE.at(Where(path), f"no profile is called {path.stem!r}", advice)


@check_each(OTHER_NAME)
def names(view: View, config: Config) -> Iterator[Finding]:
    """A model's name is its folder's."""
    if config.proto.name not in ("", config.model):
        what = f"name {config.proto.name!r} in the folder {config.model!r}"
        yield OTHER_NAME.at(config.place("name"), what, f"write name: {config.model!r}, or leave the field out")


@check_each(NO_MODEL_FILE, BAD_MODEL_FILE, NO_VERSION)
def versions(view: View, config: Config) -> Iterator[Finding]:
    """The version folders that would be served exist and contain a model."""
    found = view.repository.models[config.model].versions
    for version in config.proto.version_policy.specific.versions:
        # The empty version folder of an ensemble is created with a repository; git keeps no empty folders.
        if version not in found and not (config.is_ensemble and version == 1):
            what = f"version_policy asks for version {version} of {config.model}"
            advice = f"the versions are {', '.join(map(str, found)) or 'none'}"
            yield NO_VERSION.at(config.place("version_policy", "specific", "versions"), what, advice)
    if not config.is_ensemble:
        yield from _model_files(config, found)
    elif view.repository.is_built and not found:
        advice = f"make the empty folder {config.folder / '1'}"
        yield NO_MODEL_FILE.at(config.place("platform"), f"{config.model} has no version folder", advice)


@check_each(GIVEN_TWICE, NEWER_FIELD)
def fields(view: View, config: Config) -> Iterator[Finding]:
    """No single-value field is given twice, and no field is newer than the server."""
    yield from _repeated(config.source, model_config_pb2.ModelConfig.DESCRIPTOR)
    for name, release in NEWER_FIELDS.items():
        field = config.source.find(*name.split("."))
        if field.name == name.rpartition(".")[2] and config.path.name == CONFIG:
            advice = f"leave it out, or set it in configs/gpu.pbtxt for a server of {release} or later"
            yield NEWER_FIELD.at(field.where, f"{field.name} needs Triton {release}", advice)


def _repeated(place: Field, kind: Descriptor) -> Iterator[Finding]:
    seen: set[str] = set()
    for each in place.fields:
        descriptor = kind.fields_by_name[each.name]
        if each.name in seen and not descriptor.is_repeated:
            yield GIVEN_TWICE.at(each.where, f"{each.name} is given twice", "keep one of them")
        seen.add(each.name)
        if descriptor.message_type is not None:
            yield from _repeated(each, descriptor.message_type)


def _model_files(config: Config, found: dict[int, Path]) -> Iterator[Finding]:
    policy = config.proto.version_policy
    if policy.HasField("specific"):
        served = [version for version in policy.specific.versions if version in found]
    elif policy.HasField("all"):
        served = list(found)
    else:
        served = sorted(found)[-(policy.latest.num_versions or 1) :]
    folder = config.folder
    if not found:
        advice = f"write {folder / '1' / 'model.py'}"
        yield NO_MODEL_FILE.at(config.place("backend"), f"{config.model} has no version folder", advice)
    name = config.proto.default_model_filename or "model.py"
    for version in served:
        path = found[version] / name
        if not path.is_file():
            where = config.place("default_model_filename" if config.proto.default_model_filename else "backend")
            yield NO_MODEL_FILE.at(where, f"version {version} of {config.model} has no {name}", f"write {path}")
        else:
            yield from _model_code(path)


def _model_code(path: Path) -> Iterator[Finding]:
    try:
        module = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", 0) or 0
        reason = getattr(error, "msg", str(error))
        yield BAD_MODEL_FILE.at(Where(path, line), f"{path.name} is no Python: {reason}", "correct it")
        return
    names = {
        alias.asname or alias.name
        for node in ast.walk(module)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    names |= {node.name for node in module.body if isinstance(node, ast.ClassDef)}
    names |= {node.id for node in ast.walk(module) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    if not names & {"TritonPythonModel", "*"}:
        meant = closest("TritonPythonModel", names)
        advice = f"did you mean {meant!r}?" if meant else "define it"
        yield BAD_MODEL_FILE.at(Where(path, 1), f"{path.name} defines no TritonPythonModel", advice)


def _parse_advice(message: str) -> str:
    """Advice for protobuf's message: the nearest field or value, if it names an unknown one."""
    words = message.replace(".", " . ").split()
    unknown = message.rstrip(".").split()[-1].strip("\"'")
    if "no field named" in message and (kind := _kind(message, "Message type")):
        return did_you_mean(unknown, [each.name for each in kind.fields], "fields")
    if "no value named" in message and (kind := _kind(message, "Enum type")):
        return did_you_mean(unknown, [each.name for each in kind.values], "values")
    if "Expected" in words and message.rstrip(".").endswith(('"}"', '"]"')):
        return "close the bracket, or put a comma between the elements of a list"
    if "missing ending quote" in message:
        return "close the quotation mark"
    return "correct it; the schema is Triton's model_config.proto"


def _kind(message: str, before: str) -> Descriptor | None:
    """The message or enum type in protobuf's message."""
    full_name = message.partition(f'{before} "')[2].partition('"')[0]
    pool = model_config_pb2.DESCRIPTOR.pool
    find = pool.FindEnumTypeByName if before == "Enum type" else pool.FindMessageTypeByName
    try:
        return find(full_name)
    except KeyError:
        return None
