"""Describes the changes of a generation, by model."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from endcap_server.lint.repository import View
from endcap_server.serving.generation import Generation

_MOST_LINES = 12


def difference(view: View, generation: Generation, live_view: View, live: Generation) -> list[str]:
    """Lines that say which models are loaded and why, and which are shared."""
    lines, shared = [], []
    for model, name in generation.models.items():
        if generation.owners[model] != generation.number:
            shared.append(model)
            continue
        why = list(_changes(model, view, live_view, generation, live))
        lines.append(f"  {model}: {'switched' if model in generation.public else f'loads as {name}'}")
        lines += [f"      {each}" for each in why[:_MOST_LINES]]
        if len(why) > _MOST_LINES:
            lines.append(f"      and {len(why) - _MOST_LINES} more")
    lines += [f"  {model}: goes" for model in live.models if model not in generation.models]
    if shared:
        lines.append(f"  shared with generation {live.number}: {', '.join(shared)}")
    return lines


def _changes(model: str, view: View, live_view: View, generation: Generation, live: Generation) -> Iterator[str]:
    config, before = view.configs[model], live_view.configs.get(model)
    if before is None or model not in live.models:
        yield "new"
        return
    old, new = dict(_flat(before.proto)), dict(_flat(config.proto))
    found = False
    for key in [*old, *(key for key in new if key not in old)]:
        if old.get(key) != new.get(key):
            found = True
            yield f"{key}: {old.get(key, '(none)')} -> {new.get(key, '(none)')}"
    if not found and live.digests.get(model) != generation.digests[model]:
        found = True
        yield "its artefacts or code"
    reloaded = sorted(each for each in {*config.needs} if generation.owners.get(each) == generation.number)
    if reloaded and model not in generation.public:
        yield f"calls {', '.join(reloaded)}"
    elif not found and model not in generation.public:
        yield "unchanged, but it reports the generation"


def _flat(message: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(path, value) of every field that is set; paths use the names of list elements that have one."""
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            of_messages = field.message_type.fields_by_name["value"].type == FieldDescriptor.TYPE_MESSAGE
            for key in sorted(value):
                if of_messages:
                    text = getattr(value[key], "string_value", None)
                    yield f"{path}.{key}", str(value[key]).strip() if text is None else text
                else:
                    yield f"{path}.{key}", str(value[key])
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for number, each in enumerate(value if field.is_repeated else [value], 1):
                label = getattr(each, "name", "") or getattr(each, "model_name", "") or str(number)
                yield from _flat(each, f"{path}[{label}]." if field.is_repeated else f"{path}.")
        elif field.is_repeated:
            yield path, str(list(value))
        else:
            yield path, str(value)
