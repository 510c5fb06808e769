"""The students' engines against Hugging Face with the same weights and prompts.

A request of LLM 1 is one prompt with its own grammar, as the stage sends it. Both sides compile the grammar for each
request (Hugging Face through xgrammar's own logits processor) and decode greedily. A request of LLM 2 is one prompt
with its candidates, read once. Both sides are measured in alternation in one run. With several callers, the baseline
computes all requests as one padded batch.

    python -m benchmarks.bench_llm --build build/demo
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from endcap_builders.llm.examples import Example, OrderExample, read_examples, split_held_out
from endcap_client import numbers
from endcap_server.engines.encoder_runtime import RuntimeOptions
from endcap_server.engines.keyword_llm import KeywordLlm, KeywordLlmResult
from endcap_server.engines.llm_engine import LlmEngine
from endcap_server.engines.llm_models import LlmParameters, open_llm
from endcap_server.shop import prompts
from endcap_server.shop.grammar import theme_grammar
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.huggingface import PRECISIONS, HuggingFaceLlm, HuggingFaceOrder, ordered

Answer = Callable[[Sequence["LlmCall"]], list[str]]
TOKENS_PER_THEME = 60


@dataclass(frozen=True)
class LlmCall:
    """One prompt as a stage sends it, and a function that checks the answer."""

    prompt: str
    grammar: str  # "" for LLM 2
    max_tokens: int  # of LLM 2, the number of candidates
    valid: Callable[[str], bool]


def theme_requests(build: Path, count: int, themes: int) -> list[LlmCall]:
    """Prompts of held-out shoppers, each for the same number of themes."""
    _, held_out = split_held_out(read_examples(build / "merchandising" / "themes.jsonl", Example), count)

    def valid(text: str) -> bool:
        try:
            return len(prompts.parse_themes(text)) == themes
        except prompts.MalformedAnswer:
            return False

    shoppers = [example.prompt.split("\n")[0] for example in held_out]
    return [
        LlmCall(
            prompts.theme_prompt(shopper, themes),
            theme_grammar(themes, (), shopper),
            TOKENS_PER_THEME * themes,
            valid,
        )
        for shopper in shoppers
    ]


def keyword_requests(build: Path, count: int) -> list[LlmCall]:
    """Held-out themes, each with its candidates."""
    _, held_out = split_held_out(read_examples(build / "merchandising" / "keywords.jsonl", OrderExample), count)

    def valid(text: str, candidates: int) -> bool:
        return sorted(map(int, text.split())) == list(range(candidates))

    return [
        LlmCall(example.prompt, "", count, partial(valid, candidates=count))
        for example in held_out
        for count in (len(prompts.listed_candidates(example.prompt)),)
    ]


def baseline_answers(llm: HuggingFaceLlm, requests: Sequence[LlmCall]) -> list[str]:
    """Texts of one batch."""
    prompts_, grammars = [request.prompt for request in requests], [request.grammar for request in requests]
    return [text for text, _ in llm.generate(prompts_, grammars, max(request.max_tokens for request in requests))]


def baseline_orders(llm: HuggingFaceOrder, requests: Sequence[LlmCall]) -> list[str]:
    """Candidates, the best first, of one batch."""
    counts = np.array([request.max_tokens for request in requests])
    return _order_texts(ordered(counts, llm.logits([request.prompt for request in requests]))[0])


def engine_orders(engine: KeywordLlm, requests: Sequence[LlmCall]) -> list[str]:
    """Candidates, the best first, of requests that arrive together."""
    asked = [engine.request([request.prompt], np.array([request.max_tokens])) for request in requests]
    results = engine.run(asked)
    return [text for result in results if isinstance(result, KeywordLlmResult) for text in _order_texts(result.order)]


def _order_texts(order: np.ndarray) -> list[str]:
    return [" ".join(str(candidate) for candidate in line if candidate >= 0) for line in order.tolist()]


def engine_answers(engine: LlmEngine, requests: Sequence[LlmCall]) -> list[str]:
    """Texts of requests that arrive together."""
    answers = engine.generate(
        [request.prompt for request in requests],
        [request.grammar for request in requests],
        max(request.max_tokens for request in requests),
    )
    return [answer.text for answer in answers]


def measure(requests: list[LlmCall], callers: int, sides: Mapping[str, Answer]) -> Any:
    """Seconds of each side for groups of `callers` requests, in alternation; and counts of valid and equal answers."""
    groups = [requests[start : start + callers] for start in range(0, len(requests) - callers + 1, callers)]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    valid = dict.fromkeys(sides, 0)
    equal = 0
    for run in sides.values():
        run(groups[0])
    for group in track(groups, description=f"{callers} at a time", console=Console(stderr=True), transient=True):
        texts = {}
        for name, run in sides.items():
            start = time.perf_counter()
            texts[name] = run(group)
            seconds[name].append(time.perf_counter() - start)
            valid[name] += sum(request.valid(text) for request, text in zip(group, texts[name], strict=True))
        first, second = texts.values()
        equal += sum(a == b for a, b in zip(first, second, strict=True))
    total = len(groups) * callers
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return medians, {name: count / total for name, count in valid.items()}, equal / total


def _sides(folder: Path, name: str, threads: int, precision: str) -> dict[str, Answer]:
    """The engine and the baseline of a student."""
    if name == "keyword_llm":
        engine = KeywordLlm(folder, RuntimeOptions(threads=threads))
        return {
            "engine": partial(engine_orders, engine),
            "baseline": partial(baseline_orders, HuggingFaceOrder(folder / "hf", precision)),
        }
    return {
        "engine": partial(engine_answers, open_llm(folder, LlmParameters.model_validate({"threads": threads}))),
        "baseline": partial(baseline_answers, HuggingFaceLlm(folder / "hf", precision)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", type=Path, required=True, help="build folder with merchandising and both students")
    parser.add_argument("--requests", type=numbers.count, default=24, help="requests of each kind")
    parser.add_argument("--callers", type=numbers.count, nargs="+", default=[1, 4, 8], help="requests at a time")
    parser.add_argument("--themes", type=numbers.whole(1, 20), default=6, help="themes of a page, spare ones included")
    parser.add_argument("--threads", type=numbers.count_or_none, default=0, help="threads of both (0: all cores)")
    parser.add_argument("--baseline-precision", default="bf16", choices=PRECISIONS)
    options = parser.parse_args()

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    threads = options.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    kinds = {
        "theme_llm": theme_requests(options.build, options.requests, options.themes),
        "keyword_llm": keyword_requests(options.build, options.requests),
    }
    table = Table(title=f"LLM requests, {threads} threads")
    for column in ("model", "at a time", "engine ms", "Hugging Face ms", "ratio", "requests/s", "valid", "same answer"):
        table.add_column(column, justify="left" if column == "model" else "right")
    results = []
    for name, requests in kinds.items():
        sides = _sides(options.build / name, name, threads, options.baseline_precision)
        for callers in options.callers:
            if len(requests) < callers:
                continue
            medians, valid, equal = measure(requests, callers, sides)
            ratio = medians["baseline"] / medians["engine"]
            table.add_row(
                name,
                str(callers),
                f"{medians['engine'] * 1e3:.1f}",
                f"{medians['baseline'] * 1e3:.1f}",
                f"{ratio:.2f}",
                f"{callers / medians['engine']:.1f}",
                f"{valid['engine']:.0%}",
                f"{equal:.0%}",
            )
            results.append(
                {
                    "model": name,
                    "at_a_time": callers,
                    "engine_ms": round(medians["engine"] * 1e3, 2),
                    "baseline_ms": round(medians["baseline"] * 1e3, 2),
                    "ratio": round(ratio, 3),
                    "valid": valid["engine"],
                    "same_answer": round(equal, 3),
                }
            )
    Console().print(table)
    print(json.dumps({"benchmark": "llm", "threads": threads, "results": results}))


if __name__ == "__main__":
    main()
