"""Parameters of stages and engines: names, values and comments against their one declaration."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from endcap_server.declared.model import ADAPTER_PARAMETERS, ModelDeclaration
from endcap_server.declared.parameters import DeclaredParameter, describe_validation
from endcap_server.lint.finding import Finding, Where, code, did_you_mean
from endcap_server.lint.registry import check
from endcap_server.lint.repository import Config, Parameter, View
from endcap_server.models import DECLARATIONS, base_name

UNKNOWN = code("E501", "the model knows no such parameter", "the model is refused on loading")
OUT_OF_RANGE = code("E502", "a parameter's value is not allowed", "the model is refused on loading")
CONTRADICTION = code("E503", "parameters contradict each other", "the model is refused on loading")
TWICE = code("E504", "a parameter is given twice", "only the last one counts, without a word from Triton")
NO_VALUE = code("E505", "a parameter has no string_value", "the model reads it as an empty text, or fails")
BUDGET = code(
    "E506", "a stage keeps more of its budget than it gets", "its LLM or engine gets no time, and every page degrades"
)
NO_FILE = code("E507", "a parameter names a file that does not exist", "the model is refused on loading")
COMMENT = code("W508", "a comment is not the parameter's declaration", "whoever edits the value is misled")
IGNORED = code("W509", "nobody reads the parameters", "whoever set them expected an effect")
ORDER = code("W510", "a least value is above the most", "one of the two has no effect")


@check(UNKNOWN, OUT_OF_RANGE, CONTRADICTION, TWICE, NO_VALUE, NO_FILE, IGNORED)
def values(view: View) -> Iterator[Finding]:
    """Every parameter is one that the model declares, with a value that it allows."""
    for config in view.configs.values():
        if config.is_ensemble and config.parameters:
            what = f"the ensemble {config.model} has parameters"
            yield IGNORED.at(config.parameters[0].where, what, "set them in the stage that they are for")
        declared = DECLARATIONS.get(base_name(config.model))
        if declared is None:
            continue
        seen: set[str] = set()
        for each in config.parameters:
            if each.key in seen:
                yield TWICE.at(each.where, f"{each.key} of {config.model} is given twice", "keep one of them")
            seen.add(each.key)
            if not each.given:
                advice = 'write value: { string_value: "..." }'
                yield NO_VALUE.at(each.value_where, f"{each.key} of {config.model} has no string_value", advice)
        yield from _validate(config, declared)
        yield from _files(config, declared)


def _validate(config: Config, declared: ModelDeclaration) -> Iterator[Finding]:
    texts = {key: value for key, value in config.texts().items() if key not in ADAPTER_PARAMETERS}
    try:
        declared.parameters.model_validate(texts)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            name = str(each["loc"][0]) if each["loc"] else ""
            parameter = config.parameter(name)
            if each["type"] == "extra_forbidden" and parameter:
                known = [*declared.parameters.model_fields, *ADAPTER_PARAMETERS]
                advice = did_you_mean(name, known, f"parameters of {base_name(config.model)}")
                yield UNKNOWN.at(parameter.where, f"{config.model} has no parameter {name!r}", advice)
            elif parameter:
                expected = describe_validation(each)
                what = f"{name} of {config.model} is {parameter.value!r}"
                yield OUT_OF_RANGE.at(parameter.value_where, what, f"expected {expected}")
            else:
                where = _culprit(config, declared)
                what = f"the parameters of {config.model} do not go together"
                yield CONTRADICTION.at(where, what, f"expected {describe_validation(each)}")


def _culprit(config: Config, declared: ModelDeclaration) -> Where:
    """Where a contradiction is mended: the parameter without which, at its default, there would be none.

    Of several, the one that is furthest from its default.
    """
    texts = {key: value for key, value in config.texts().items() if key not in ADAPTER_PARAMETERS}
    blamed: list[tuple[float, Parameter]] = []
    for name in texts:
        parameter = config.parameter(name)
        try:
            declared.parameters.model_validate({key: value for key, value in texts.items() if key != name})
        except ValidationError:
            continue
        if parameter is not None:
            blamed.append((_distance(parameter.value, declared.parameters.model_fields[name].default), parameter))
    if not blamed:  # no single one is to blame
        return config.place("parameters")
    return max(blamed, key=lambda each: each[0])[1].value_where


def _distance(value: str, default: Any) -> float:
    try:
        return abs(float(value) - float(default))
    except (TypeError, ValueError):
        return 0.0


def _files(config: Config, declared: ModelDeclaration) -> Iterator[Finding]:
    for each in declared.parameters.declared():
        parameter = config.parameter(each.name) if each.is_file else None
        if parameter is None or not parameter.value:
            continue
        path = Path(parameter.value)
        if not path.is_absolute():
            what = f"{each.name} is {parameter.value!r}, a relative path"
            yield NO_FILE.at(parameter.value_where, what, "write the absolute path of the file")
        elif not path.is_file():
            yield NO_FILE.at(parameter.value_where, f"{each.name} {parameter.value!r} does not exist", "write it")
    build = config.parameter("build")
    if build and not (config.folder / build.value).is_dir():
        what = f"the build {build.value!r} does not exist beside {config.model}"
        yield NO_FILE.at(build.value_where, what, f"a path relative to {config.folder}; ../.. is the default")


@check(COMMENT)
def comments(view: View) -> Iterator[Finding]:
    """The comment above a parameter is its declared meaning and range; more may follow."""
    for config in view.configs.values():
        declared = DECLARATIONS.get(base_name(config.model))
        for each in declared.parameters.declared() if declared else ():
            parameter = config.parameter(each.name)
            if parameter is None or not parameter.comment:
                continue
            lines = [text for _, text in parameter.comment]
            if not any(_says(" ".join(lines[start:]), each) for start in range(len(lines))):
                what = f"the comment of {each.name} says {lines[-1]!r}"
                yield COMMENT.at(Where(config.path, parameter.comment[-1][0]), what, f"write: # {each.comment}")


def _says(comment: str, parameter: DeclaredParameter) -> bool:
    meaning, bounds = parameter.meaning, parameter.bounds
    return comment.startswith(meaning) and (not bounds or f"({bounds})" in comment[len(meaning) :])


@check(BUDGET, ORDER)
def budgets(view: View) -> Iterator[Finding]:
    """The time that stages keep for themselves fits in their shares, and least values are below the most."""
    read = {name: settings for name in view.configs if (settings := _read(view, name)) is not None}
    for name, settings in read.items():
        base, config = base_name(name), view.configs[name]
        for least, most in DECLARATIONS[base].ordered:
            low, high = getattr(settings, least), getattr(settings, most)
            if low > high:
                where = _value_place(config, least, most)
                yield ORDER.at(where, f"{least} is {low}, and {most} {high}", f"{least} at most {most}")
        retrieval = read.get(name.replace(base, "retrieval", 1)) or read.get("retrieval")
        kept = DECLARATIONS[base].reserve
        if kept is not None and retrieval is not None:
            reserve, share = kept
            request_ms = min(retrieval.default_budget_ms, retrieval.max_budget_ms)
            gets, keeps = request_ms * getattr(retrieval, share), getattr(settings, reserve)
            if keeps >= gets > 0:
                what = (
                    f"{reserve} keeps {keeps:g} ms of the {gets:g} ms that {name} gets of a budget of {request_ms} ms"
                )
                advice = f"lower {reserve}, or raise {share} or default_budget_ms of retrieval"
                yield BUDGET.at(_value_place(config, reserve), what, advice)


def _read(view: View, name: str) -> Any:
    """A model's parameters with their defaults, or None if they cannot be read."""
    declared = DECLARATIONS.get(base_name(name))
    if declared is None:
        return None
    texts = {key: value for key, value in view.configs[name].texts().items() if key not in ADAPTER_PARAMETERS}
    try:
        return declared.parameters.model_validate(texts)
    except ValidationError:
        return None


def _value_place(config: Config, *names: str) -> Where:
    found = [parameter for name in names if (parameter := config.parameter(name))]
    return found[0].value_where if found else config.place("parameters")
