"""Notices before a rollout: what cannot be replaced without a gap, or not at all."""

from collections.abc import Iterator

from endcap_server.lint.repository import View
from endcap_server.models import base_name, declared_model
from endcap_server.serving.generation import Generation


def notices(view: View, generation: Generation, live: Generation) -> Iterator[str]:
    """Notices about a generation that would replace the live one."""
    gone = [name for model, name in live.models.items() if name not in generation.models.values()]
    if gone:
        yield f"callers of {', '.join(sorted(gone))} by that name will not find it; pages do not need it"
    others = sorted(set(view.configs) - set(generation.models))
    if others:
        yield f"{', '.join(others)}: no ensemble that endcap serves reaches it; it is not rolled out"
    unknown = [model for model in generation.models if declared_model(model) is None]
    if unknown:
        yield f"{', '.join(sorted(unknown))}: not endcap's; what its code calls by name is not moved with it"
    if generation.profile == "gpu":
        yield "the memory of the GPU is not looked at: it has to hold the engines of both generations for a while"
    if any(
        base_name(model) == "retrieval" and generation.owners[model] == generation.number for model in generation.models
    ):
        yield "retrieval's knowledge of what requests cost begins anew: for some seconds overload is noticed late"
    yield (
        "ports, the profile and the version of Triton or endcap are the server's own: "
        "changing them takes a restart, with a gap"
    )
