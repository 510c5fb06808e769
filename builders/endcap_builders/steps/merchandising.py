"""Step ``merchandising``: a teacher writes training examples for the LLM students and the cross-encoder."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from endcap_server.engines.bi_encoder import BiEncoder
from endcap_server.shop.prompts import MAX_CANDIDATES, ThemeDraft
from endcap_server.shop.store import ItemStore
from pydantic import Field

from endcap_builders.catalogue.groups import EVENTS, QUERIES, TEXTS
from endcap_builders.llm.examples import write_examples
from endcap_builders.merchandising.examples import keyword_examples, keyword_requests, theme_examples, theme_products
from endcap_builders.merchandising.lexicon import DEFAULT_LEXICON, read_lexicon
from endcap_builders.merchandising.merchandiser import Merchandiser
from endcap_builders.merchandising.openai_teacher import OpenAISettings, OpenAITeacher
from endcap_builders.merchandising.profiles import ProfileSampler
from endcap_builders.merchandising.statistics import compute_statistics
from endcap_builders.merchandising.teacher import CopyTeacher
from endcap_builders.step import BuildContext, BuildError, Settings, Step
from endcap_builders.steps.store import WITHOUT_FACTS


class MerchandisingSettings(Settings):
    """Settings of the teacher and the numbers of examples."""

    teacher: Literal["merchandiser", "openai"] = Field(
        "merchandiser",
        description="who writes the examples: our code from statistics, or an OpenAI-compatible endpoint",
    )
    pages: int = Field(5000, ge=20, description="pages of themes to write")
    keyword_choices: int = Field(4000, ge=20, description="keyword choices to make")
    keywords: int = Field(5, ge=1, le=20, description="keywords of a placement")
    candidates: int = Field(
        60, ge=5, le=MAX_CANDIDATES, description="candidate keywords of a choice; serving has fewer"
    )
    fit_themes: int = Field(1500, ge=0, description="placements that the cross-encoder gets graded products for")
    lexicon: str = Field("", description="your own edition of lexicon.toml (title patterns); empty: the built-in one")
    openai: OpenAISettings = Field(OpenAISettings.model_validate({}), description="the endpoint, for teacher=openai")


def run(ctx: BuildContext, settings: MerchandisingSettings) -> dict[str, Any]:
    """Write themes.jsonl, keywords.jsonl and theme_products.parquet."""
    rng = random.Random(ctx.seed)
    lexicon = read_lexicon(Path(settings.lexicon) if settings.lexicon else DEFAULT_LEXICON)
    store = ItemStore.open(ctx.build)
    encoder = BiEncoder(ctx.input("bi_encoder"))

    def embed(texts: Sequence[str]) -> np.ndarray[Any, Any]:
        return encoder.encode(list(texts)).astype(np.float32)

    try:
        statistics = compute_statistics(ctx.catalogue, store, lexicon)
    except ValueError as error:
        raise BuildError(str(error)) from None
    merchandiser = Merchandiser(statistics, lexicon, embed)
    teacher: CopyTeacher = merchandiser
    if settings.teacher == "openai":
        teacher = OpenAITeacher(settings.openai, statistics, ctx.work / "answers.jsonl", ctx.log)
    sampler = ProfileSampler(ctx.catalogue, statistics, lexicon, rng)
    requests = [sampler.draw() for _ in range(settings.pages)]
    counts: Counter[str] = Counter()
    themes: dict[ThemeDraft, None] = {}
    examples = []
    pages = theme_examples(teacher, requests, counts)
    for example, page in ctx.track(pages, "pages of themes", total=len(requests)):
        examples.append(example)
        themes.update(dict.fromkeys(page))
    written = write_examples(ctx.output / "themes.jsonl", examples)
    chosen_themes = rng.sample(list(themes), min(len(themes), settings.keyword_choices))
    # With few distinct themes (a small catalogue), repeat them with other numbers of candidates.
    chosen_themes += rng.choices(list(themes), k=settings.keyword_choices - len(chosen_themes))
    asked = keyword_requests(merchandiser, chosen_themes, settings.keywords, settings.candidates, rng)
    answered = list(ctx.track(keyword_examples(teacher, asked, counts), "keyword choices", total=len(asked)))
    choices = write_examples(ctx.output / "keywords.jsonl", (example for example, _ in answered))
    fit = theme_products(merchandiser, [choice for _, choice in answered[: settings.fit_themes]], rng)
    fit.write_parquet(ctx.output / "theme_products.parquet")
    if not written or not choices:
        raise BuildError(
            f"the teacher wrote {written} pages and {choices} keyword choices that pass the checks; expected some of "
            f"both; refused: {dict(counts)}"
        )
    ctx.log(f"{written:,} pages, {len(themes):,} placements, {choices:,} keyword choices, {len(fit):,} graded products")
    figures = {
        "pages": written,
        "placements": len(themes),
        "titles": len({theme.title for theme in themes}),
        "keyword_choices": choices,
        "theme_products": len(fit),
        "topics": len(statistics.topics),
        "occasions": len(statistics.occasions),
        "attributes": len(statistics.attributes),
        "refused": dict(counts),
    }
    if isinstance(teacher, OpenAITeacher):
        figures |= teacher.figures()
    return figures


STEP = Step(
    name="merchandising",
    help="writing themes and keyword choices for the students",
    needs=("catalogue", "bi_encoder", "store", "index"),
    settings=MerchandisingSettings,
    run=run,
    on_refresh="examples",
    reads={"catalogue": (TEXTS, EVENTS, QUERIES), "store": WITHOUT_FACTS},
)
