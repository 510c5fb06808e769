"""Cross-encoder engine against sentence-transformers' ``CrossEncoder.predict``: the same weights, pairs and machine.

Both are measured in alternation in one run, so that other load on the machine affects both. A request is one text with
its candidates, as `rerank` sends it; sentence-transformers gets the same pairs as texts, tokenisation included.

    python -m benchmarks.bench_cross_encoder --build build/demo
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from endcap_client import numbers
from endcap_server.engines.cross_encoder import MAX_TEXT_TOKENS, CrossEncoder, CrossEncoderRequest, CrossEncoderResult
from endcap_server.engines.encoder_runtime import RuntimeOptions
from endcap_server.shop.store import ItemStore
from rich.console import Console
from rich.progress import track
from rich.table import Table

SPECIAL_TOKENS = 3


@dataclass(frozen=True)
class Work:
    """Texts with their candidates, as rows for the engine and as pairs of texts for the baseline."""

    texts: list[str]
    rows: np.ndarray  # int32 [texts, candidates]
    pairs: list[tuple[str, str]]


def sample_work(store: ItemStore, build: Path, texts: int, candidates: int, seed: int) -> Work:
    """Known keywords, each with products that it retrieves; random products fill the remaining places."""
    from endcap_server.engines.bi_encoder import load_tokenizer

    tokenizer = load_tokenizer(build / "store" / "tokenizer.json")
    rng = np.random.default_rng(seed)
    picked = rng.choice(len(store.keywords), texts, replace=len(store.keywords) < texts)
    rows = np.empty((texts, candidates), np.int32)
    for line, keyword in enumerate(picked):
        own = store.keyword_products[keyword]
        own = own[own >= 0][:candidates]
        others = np.setdiff1d(np.arange(len(store)), own)
        more = rng.choice(others, candidates - len(own), replace=len(others) < candidates - len(own))
        rows[line] = np.concatenate([own, more])
    keywords = store.keywords.take(picked)
    # The baseline's texts tokenise to exactly the tokens in the store.
    said = {int(row): tokenizer.decode(store.tokens.row(int(row)).tolist()) for row in np.unique(rows)}
    pairs = [(text, said[int(row)]) for text, own in zip(keywords, rows, strict=True) for row in own]
    return Work(keywords, rows, pairs)


def measure(
    runs: dict[str, Callable[[], np.ndarray]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Seconds of each run, in alternation after one unmeasured run each, and the result of the last run."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    scores = {name: run() for name, run in runs.items()}
    for _ in track(range(repeats), description="rounds", console=Console(stderr=True)):
        for name, run in runs.items():
            start = time.perf_counter()
            scores[name] = run()
            seconds[name].append(time.perf_counter() - start)
    return seconds, scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, required=True, help="build folder with store, index and cross_encoder")
    parser.add_argument("--checkpoint", type=Path, help="the checkpoint that was exported (default: in the build)")
    parser.add_argument("--texts", type=numbers.count, default=4, help="requests measured at a time")
    parser.add_argument("--candidates", type=numbers.count, default=100, help="products a request")
    parser.add_argument("--repeats", type=numbers.count, default=7, help="rounds; medians are shown")
    parser.add_argument("--threads", type=numbers.count_or_none, default=0, help="threads of both (0: all cores)")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "f32"], help="of the engine")
    parser.add_argument("--batch-size", type=numbers.count, default=32, help="of the baseline (its own default: 32)")
    parser.add_argument("--seed", type=numbers.seed, default=7)
    options = parser.parse_args()

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    import torch
    from scipy.stats import spearmanr
    from sentence_transformers import CrossEncoder as Baseline

    threads = options.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    store = ItemStore.open(options.build)
    work = sample_work(store, options.build, options.texts, options.candidates, options.seed)
    runtime = RuntimeOptions(threads=threads, precision=options.precision)
    engine = CrossEncoder(options.build / "cross_encoder", store, runtime)
    checkpoint = options.checkpoint or options.build / "cross_encoder"
    longest = MAX_TEXT_TOKENS + store.max_product_tokens + SPECIAL_TOKENS
    baseline = Baseline(str(checkpoint), device="cpu", max_length=longest, activation_fn=torch.nn.Identity())

    def run_engine() -> np.ndarray:
        requests = [CrossEncoderRequest([text], work.rows[line : line + 1]) for line, text in enumerate(work.texts)]
        logits = []
        for answer in engine.run(requests):
            if not isinstance(answer, CrossEncoderResult):
                raise answer
            logits.append(answer.logits.ravel())
        return np.concatenate(logits)

    def run_baseline() -> np.ndarray:
        return np.asarray(baseline.predict(work.pairs, batch_size=options.batch_size, show_progress_bar=False)).ravel()

    seconds, scores = measure({"engine": run_engine, "sentence-transformers": run_baseline}, options.repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    spearman = float(spearmanr(scores["engine"], scores["sentence-transformers"]).statistic)
    ratio = medians["sentence-transformers"] / medians["engine"]

    table = Table(title=f"{len(work.pairs)} pairs, {threads} threads, engine in {engine.precision}")
    for name in ("", "pairs/s", "ms / 100 pairs", "ratio", "Spearman"):
        table.add_column(name, justify="right" if name else "left")
    for name, value in medians.items():
        rate = len(work.pairs) / value
        own = (f"{ratio:.2f}x", f"{spearman:.5f}") if name == "engine" else ("1.00x", "")
        table.add_row(name, f"{rate:.0f}", f"{1e5 / rate:.0f}", *own)
    Console().print(table)
    figures = {
        "benchmark": "cross_encoder",
        "pairs": len(work.pairs),
        "threads": threads,
        "precision": engine.precision,
        "engine_pairs_per_s": round(len(work.pairs) / medians["engine"], 1),
        "baseline_pairs_per_s": round(len(work.pairs) / medians["sentence-transformers"], 1),
        "ratio": round(ratio, 3),
        "ratio_by_round": [
            round(b / a, 2) for a, b in zip(seconds["engine"], seconds["sentence-transformers"], strict=True)
        ],
        "spearman": round(spearman, 6),
        "score_std": round(float(np.std(scores["sentence-transformers"])), 4),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
