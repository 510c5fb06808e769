"""Pages that the rule-based teacher writes for shoppers that LLM 1 was not trained on."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from endcap_server.engines.bi_encoder import BiEncoder
from endcap_server.shop import prompts
from endcap_server.shop.prompts import ThemeDraft
from endcap_server.shop.store import ItemStore

from endcap_builders.llm.examples import Example, read_examples
from endcap_builders.merchandising.examples import theme_examples
from endcap_builders.merchandising.lexicon import read_lexicon
from endcap_builders.merchandising.merchandiser import Merchandiser
from endcap_builders.merchandising.profiles import ProfileSampler
from endcap_builders.merchandising.statistics import compute_statistics
from endcap_builders.step import BuildContext, BuildError


def merchandiser_of(ctx: BuildContext, store: ItemStore) -> Merchandiser:
    """The rule-based teacher of a build.

    Raises:
        BuildError: the catalogue has no topics.
    """
    lexicon, encoder = read_lexicon(), BiEncoder(ctx.input("bi_encoder"))
    try:
        statistics = compute_statistics(ctx.catalogue, store, lexicon)
    except ValueError as error:
        raise BuildError(str(error)) from None
    return Merchandiser(statistics, lexicon, lambda texts: encoder.encode(list(texts)).astype(np.float32))


def new_pages(
    ctx: BuildContext, merchandiser: Merchandiser, count: int, seed: int
) -> list[tuple[str, tuple[ThemeDraft, ...]]]:
    """Shopper texts with pages, of `count` themes or a few more in all; themes that LLM 1 learned are left out.

    Args:
        ctx: of the build.
        merchandiser: writes them.
        count: themes.
        seed: of the draws; they never are those of a build.
    """
    rng = random.Random(f"quality {seed}")
    sampler = ProfileSampler(ctx.catalogue, merchandiser.statistics, merchandiser.lexicon, rng)
    seen = learned_titles(ctx.input("merchandising") / "themes.jsonl")
    pages: list[tuple[str, tuple[ThemeDraft, ...]]] = []
    for example, drafts in theme_examples(merchandiser, [sampler.draw() for _ in range(count)], Counter()):
        fresh = tuple(draft for draft in drafts if draft.title not in seen)
        if fresh:
            pages.append((example.prompt.split("\n", 1)[0], fresh))
        if themes_of(pages) >= count:
            break
    return pages


def themes_of(pages: Sequence[tuple[str, Sequence[ThemeDraft]]]) -> int:
    """How many themes the pages have."""
    return sum(len(drafts) for _, drafts in pages)


def learned_titles(path: Path) -> set[str]:
    """Titles of the examples of LLM 1; none without the file."""
    if not path.exists():
        return set()
    return {
        theme.title
        for example in read_examples(path, Example)
        for theme in prompts.parse_themes(example.completion, example.prompt.split("\n", 1)[0])
    }
