"""Triton's response cache, which no model of endcap can use."""

from collections.abc import Iterator

from endcap_server.lint.finding import Finding, code
from endcap_server.lint.registry import check
from endcap_server.lint.repository import View

CACHED = code(
    "E401",
    "a model with Triton's response cache",
    "Triton keeps the empty answer of a request that was cancelled, and all equal requests get it; deadlines are part "
    "of the inputs, and which outputs were asked for is no part of the key",
)


@check(CACHED)
def caches(view: View) -> Iterator[Finding]:
    """No model enables the response cache."""
    for config in view.configs.values():
        if config.proto.response_cache.enable:
            what = f"{config.model} has a response cache"
            advice = "leave response_cache out; theme and keywords keep whole answers by themselves (cache_entries)"
            yield CACHED.at(config.place("response_cache", "enable"), what, advice)
