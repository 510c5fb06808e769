"""Checks of parameters: names and values compared with the declaration."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from endcap_server.declared.model import ADAPTER_PARAMETERS, ModelDeclaration
from endcap_server.declared.parameters import describe_validation
from endcap_server.lint.finding import Finding, Where, code, did_you_mean
from endcap_server.lint.registry import check, check_each
from endcap_server.lint.repository import Config, Parameter, View
from endcap_server.models import base_name

UNKNOWN = code("E501", "the model knows no such parameter", "the model is refused on loading")
OUT_OF_RANGE = code("E502", "a parameter's value is not allowed", "the model is refused on loading")
CONTRADICTION = code("E503", "parameters contradict each other", "the model is refused on loading")
TWICE = code("E504", "a parameter is given twice", "only the last one counts, without a word from Triton")
NO_VALUE = code("E505", "a parameter has no string_value", "the model reads it as an empty text, or fails")
BUDGET = code(
    "E506", "a stage keeps more of its budget than it gets", "its LLM or engine gets no time, and every page degrades"
)
NO_FILE = code("E507", "a parameter names a file that does not exist", "the model is refused on loading")
IGNORED = code("W509", "nobody reads the parameters", "whoever set them expected an effect")
ORDER = code("W510", "a least value is above the most", "one of the two has no effect")


@check_each(UNKNOWN, OUT_OF_RANGE, CONTRADICTION, TWICE, NO_VALUE, NO_FILE, IGNORED)
def values(view: View, config: Config) -> Iterator[Finding]:
    """Every parameter is declared by the model and has an allowed value."""
    if config.is_ensemble and config.parameters:
        what = f"the ensemble {config.model} has parameters"
        yield IGNORED.at(config.parameters[0].where, what, "set them in the stage that they are for")
    if config.declared is None:
        return
    seen: set[str] = set()
    for each in config.parameters:
        if each.key in seen:
            yield TWICE.at(each.where, f"{each.key} of {config.model} is given twice", "keep one of them")
        seen.add(each.key)
        if not each.given:
            what = f"{each.key} of {config.model} has no string_value"
            yield NO_VALUE.at(each.value_where, what, 'write value: { string_value: "..." }')
    yield from _validate(config, config.declared)
    yield from _files(config, config.declared)


def _validate(config: Config, declared: ModelDeclaration) -> Iterator[Finding]:
    try:
        declared.parameters.model_validate(config.own_texts)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            name = str(each["loc"][0]) if each["loc"] else ""
            parameter, advice = config.parameter(name), f"expected {describe_validation(each)}"
            if parameter is None:
                what = f"the parameters of {config.model} do not go together"
                yield CONTRADICTION.at(_culprit(config, declared), what, advice)
            elif each["type"] == "extra_forbidden":
                known = [*declared.parameters.model_fields, *ADAPTER_PARAMETERS]
                advice = did_you_mean(name, known, f"parameters of {base_name(config.model)}")
                yield UNKNOWN.at(parameter.where, f"{config.model} has no parameter {name!r}", advice)
            else:
                what = f"{name} of {config.model} is {parameter.value!r}"
                yield OUT_OF_RANGE.at(parameter.value_where, what, advice)


def _culprit(config: Config, declared: ModelDeclaration) -> Where:
    """The place to fix a contradiction: a parameter whose default would resolve it.

    If there are several, the one that is furthest from its default.
    """
    texts = config.own_texts
    blamed: list[tuple[float, Parameter]] = []
    for parameter in config.parameters:
        try:
            declared.parameters.model_validate({key: text for key, text in texts.items() if key != parameter.key})
        except ValidationError:
            continue
        blamed.append((_distance(parameter.value, declared.parameters.model_fields[parameter.key].default), parameter))
    if not blamed:  # no single parameter resolves it
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
        if not Path(parameter.value).is_absolute():
            what = f"{each.name} is {parameter.value!r}, a relative path"
            yield NO_FILE.at(parameter.value_where, what, "write the absolute path of the file")
        elif not Path(parameter.value).is_file():
            yield NO_FILE.at(parameter.value_where, f"{each.name} {parameter.value!r} does not exist", "write it")
    build = config.parameter("build")
    if build and not (config.folder / build.value).is_dir():
        what = f"the build {build.value!r} does not exist beside {config.model}"
        yield NO_FILE.at(build.value_where, what, f"a path relative to {config.folder}; ../.. is the default")


@check(BUDGET, ORDER)
def budgets(view: View) -> Iterator[Finding]:
    """The time that stages reserve fits into their shares, and lower bounds are not above upper bounds."""
    for name, config in view.configs.items():
        declared, settings = config.declared, config.settings
        if declared is None or settings is None:
            continue
        for least, most in declared.ordered:
            low, high = getattr(settings, least), getattr(settings, most)
            if low > high:
                where = _value_place(config, least, most)
                yield ORDER.at(where, f"{least} is {low}, and {most} {high}", f"{least} at most {most}")
        beside = view.configs.get(name.replace(declared.name, "retrieval", 1), view.configs.get("retrieval"))
        retrieval = beside.settings if beside else None
        if declared.reserve is None or retrieval is None:
            continue
        reserve, share = declared.reserve
        request_ms = min(retrieval.default_budget_ms, retrieval.max_budget_ms)
        gets, keeps = request_ms * getattr(retrieval, share), getattr(settings, reserve)
        if keeps >= gets > 0:
            what = f"{reserve} keeps {keeps:g} ms of the {gets:g} ms that {name} gets of a budget of {request_ms} ms"
            advice = f"lower {reserve}, or raise {share} or default_budget_ms of retrieval"
            yield BUDGET.at(_value_place(config, reserve), what, advice)


def _value_place(config: Config, *names: str) -> Where:
    found = [parameter for name in names if (parameter := config.parameter(name))]
    return found[0].value_where if found else config.place("parameters")
