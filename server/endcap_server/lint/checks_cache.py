"""The response cache, where it is enabled and cannot work.

Triton's key of an answer is the model, its version and its input tensors: neither request parameters nor the outputs
that were asked for are part of it. An answer with an empty output is not kept.
"""

from collections.abc import Iterator

from endcap_server.lint.finding import Finding, code
from endcap_server.lint.registry import check
from endcap_server.lint.repository import Config, View
from endcap_server.models import declared_model

CLOCK_TENSORS = ("PAGE",)
"""Tensors that hold a moment of this request: no two requests have the same."""

CACHE_REFUSED = code("E401", "a response cache that Triton refuses", "Triton does not load the model")
CACHED_ENSEMBLE = code(
    "E402",
    "an ensemble with a response cache",
    "pages never expire: what lets them, and their deadline, are made inside; and the key ignores which outputs a "
    "caller asked for",
)
CACHED_CLOCK = code(
    "E403",
    "a cached model with a tensor of the clock",
    "an input never repeats, so nothing is found; an output is past",
)
CACHED_ENGINE = code("E404", "a cached engine that answers by more than its inputs", "callers get wrong answers")
CACHED_DIFFERENTLY = code(
    "E405",
    "ensembles ask a cached model for different outputs",
    "the cache keeps the outputs of whoever came first, and the other ensemble lacks its own",
)


@check(CACHE_REFUSED, CACHED_ENSEMBLE, CACHED_CLOCK, CACHED_ENGINE)
def caches(view: View) -> Iterator[Finding]:
    """A response cache is enabled only where equal inputs mean equal answers."""
    for config in view.configs.values():
        if config.proto.response_cache.enable:
            yield from _cache(config)


def _cache(config: Config) -> Iterator[Finding]:
    where, known = config.place("response_cache", "enable"), declared_model(config.model)
    advice = "leave response_cache out"
    for name, refused in (
        ("sequence_batching", config.proto.HasField("sequence_batching")),
        ("decoupled", config.proto.model_transaction_policy.decoupled),
    ):
        if refused:
            yield CACHE_REFUSED.at(where, f"{config.model} has {name} and a response cache", advice)
    if config.is_ensemble:
        advice = "leave it out; theme and keywords have one"
        yield CACHED_ENSEMBLE.at(where, f"the ensemble {config.model} has a response cache", advice)
        return
    for kind, tensors in (("input", config.inputs), ("output", config.outputs)):
        for tensor in tensors:
            if tensor.name in CLOCK_TENSORS:
                what = f"{config.model} is cached and has the {kind} {tensor.name}"
                yield CACHED_CLOCK.at(where, what, advice)
    if known and known.uncacheable:
        yield CACHED_ENGINE.at(where, f"{config.model} is cached: {known.uncacheable}", advice)


@check(CACHED_DIFFERENTLY)
def cached_outputs(view: View) -> Iterator[Finding]:
    """All steps that run a cached model map the same outputs of it."""
    asked: dict[str, tuple[str, set[str]]] = {}
    for config in view.ensembles:
        for step in config.steps:
            composing = view.configs.get(step.model)
            if composing is None or not composing.proto.response_cache.enable:
                continue
            if view.is_reported(composing.place("response_cache", "enable")):
                continue  # it is not to be cached at all
            outputs = {link.key for link in step.outputs}
            first, others = asked.setdefault(step.model, (config.model, outputs))
            if outputs != others:
                what = f"{step.model} is cached, and asked for other outputs here than in {first}"
                names = ", ".join(sorted(outputs ^ others))
                yield CACHED_DIFFERENTLY.at(step.where, what, f"map {names} in both or in neither")
