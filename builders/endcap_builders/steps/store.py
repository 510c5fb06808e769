"""Step `store`: the item store, memory-mapped columns of products and keywords for serving."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from endcap_server.engines.bi_encoder import BiEncoder, load_tokenizer
from endcap_server.engines.encoder_runtime import EngineLoadError
from endcap_server.shop.array_files import AT_ONCE
from endcap_server.shop.columns import Array, Ragged
from endcap_server.shop.prompts import leaf_name
from endcap_server.shop.store import create_column, tokenizer_digest, write_columns, write_products
from endcap_server.shop.words import words
from pydantic import Field
from tokenizers import Tokenizer

from endcap_builders.build_folder import file_digest
from endcap_builders.catalogue.groups import EVENTS, FACTS, QUERIES, TEXTS
from endcap_builders.catalogue.shopper_words import Label, audit_table, shopper_words
from endcap_builders.keywords import WordIndex, known_keywords
from endcap_builders.markup import plain_text
from endcap_builders.pretrained.checkpoints import tokenizer_file
from endcap_builders.reuse import FOLDER as REUSE
from endcap_builders.reuse import Encoder, TextEncoder
from endcap_builders.step import BuildContext, BuildError, Settings, Step
from endcap_builders.steps.captions import FILE as CAPTIONS_FILE
from endcap_builders.words import caption_tokens

_CHUNK = 256
_TEXT_COLUMNS = ("title", "brand", "category", "description")
_EVENT_WEIGHTS = {"view": 1.0, "cart": 3.0, "purchase": 5.0}


class StoreSettings(Settings):
    """Options of the step."""

    tokenizer: str = Field(
        "",
        description="checkpoint (or tokenizer.json) of the cross-encoder, if its vocabulary is not the bi-encoder's",
    )
    max_product_tokens: int = Field(48, ge=8, le=448, description="tokens of a product that the cross-encoder reads")
    description_words: int = Field(
        0,
        ge=0,
        le=200,
        description="words of the description in a product's vector; titles alone retrieved as well on the sets tried",
    )
    max_keywords: int = Field(300_000, ge=1, description="most known search keywords")
    keyword_least_products: int = Field(
        5, ge=1, description="products in which a keyword derived from the catalogue has to occur"
    )
    keyword_least_similarity: float = Field(
        0.45, ge=-1, le=1, description="similarity of its best product from which a searched text retrieves products"
    )
    caption_least_products: int = Field(4, ge=1, description="products in which a caption token has to occur")
    caption_most_share: float = Field(0.1, gt=0, le=1, description="share of products in which it may occur")
    caption_vocabulary: int = Field(20_000, ge=0, description="most distinct caption tokens")
    captions_per_product: int = Field(32, ge=0, le=256, description="most caption tokens of a product")


def run(ctx: BuildContext, settings: StoreSettings) -> dict[str, Any]:
    """Write the product and keyword columns, and the tokenizer that made the tokens."""
    return write_store(ctx, settings, BiEncoder(ctx.input("bi_encoder")))


def write_store(ctx: BuildContext, settings: StoreSettings, encoder: Encoder) -> dict[str, Any]:
    """Write the store with the vectors of ``encoder``."""
    products = ctx.catalogue.products
    texts = TextEncoder(ctx, encoder)
    vectors = create_column(ctx.output, "vectors", (products.height, encoder.dimension))
    texts.encode("products", _vector_texts(products, settings.description_words), vectors)
    found = known_keywords(
        products, ctx.catalogue.queries, limit=settings.max_keywords, least=settings.keyword_least_products
    )
    keyword_vectors = np.zeros((len(found.texts), encoder.dimension), np.float16)
    texts.encode("keywords", pl.Series(found.texts, dtype=pl.String), keyword_vectors)
    kept = _that_retrieve(found.texts, keyword_vectors, products, vectors, settings.keyword_least_similarity)
    keywords = [found.texts[row] for row in kept]
    write_columns(
        ctx.output, keywords=keywords, keyword_vectors=keyword_vectors[kept], keyword_counts=found.counts[kept]
    )
    tokens, vocabulary = _write_products(ctx, settings, texts)
    texts.write(kept, keyword_vectors)
    figures = {
        "products": products.height,
        "product_tokens": round(tokens / products.height, 1),
        "keywords": len(keywords),
        "keywords_from_log": int((found.counts[kept] > 0).sum()),
        "keywords_dropped": len(found.texts) - len(keywords),
        "caption_tokens": len(vocabulary),
        "precision": encoder.precision,
        "computed": texts.computed,
    }
    ctx.log(
        f"{figures['products']:,} products of {figures['product_tokens']} tokens, {figures['keywords']:,} keywords "
        f"({figures['keywords_from_log']:,} searched), {figures['caption_tokens']:,} caption tokens"
    )
    ctx.log("new texts: " + ", ".join(f"{count:,} {name}" for name, count in texts.computed.items()))
    return figures


def product_text(title: str, brand: str, category: str, description: str, *, description_words: int) -> str:
    """The text of a product: title, brand and category if the title does not contain them, description."""
    parts, said = [title], set(words(title))
    for part in (brand, leaf_name(category) if category else ""):
        if part and not said.issuperset(words(part)):
            parts.append(part)
            said.update(words(part))
    if description and description_words:
        # Markup in descriptions would use up the limited number of tokens.
        parts.append(" ".join(plain_text(description[: description_words * 40]).split()[:description_words]))
    return ". ".join(parts)


def _vector_texts(products: pl.DataFrame, description_words: int) -> pl.Series:
    return pl.concat(
        pl.Series(
            [product_text(*row, description_words=description_words) for row in part.iter_rows()], dtype=pl.String
        )
        for part in products.select(_TEXT_COLUMNS).iter_slices(AT_ONCE)
    )


def _that_retrieve(
    texts: list[str], vectors: Array, products: pl.DataFrame, product_vectors: Array, least: float
) -> Array:
    """Positions of the keywords that find products: by all their words, or by a near product."""
    index = WordIndex(products)
    found = np.array([len(index.find(text)) > 0 for text in texts], np.bool_)
    others = np.flatnonzero(~found)
    for start in range(0, len(product_vectors), AT_ONCE):
        # Texts that found a product do not take part any longer.
        others = others[~found[others]]
        matrix = product_vectors[start : start + AT_ONCE].astype(np.float32).T
        for first in range(0, len(others), _CHUNK):
            block = others[first : first + _CHUNK]
            found[block] = (vectors[block].astype(np.float32) @ matrix).max(axis=1) >= least
    return np.flatnonzero(found)


def _write_products(ctx: BuildContext, settings: StoreSettings, texts: TextEncoder) -> tuple[int, list[str]]:
    """Write the columns of products but their vectors; the number of tokens, and all caption tokens."""
    products = ctx.catalogue.products
    brands, brand = _codes(products["brand"])
    categories, category = _codes(products["category"])
    labels = _labels(ctx, products)
    given = tokenizer_file("store.tokenizer", settings.tokenizer) if settings.tokenizer else None
    tokenizer = _tokenizer(ctx, given or ctx.input("bi_encoder") / "tokenizer.json")
    vocabulary, captions = caption_tokens(
        products["title"],
        _captions(ctx, products),
        least=settings.caption_least_products,
        most=max(int(settings.caption_most_share * products.height), settings.caption_least_products),
        vocabulary=settings.caption_vocabulary,
        per_product=settings.captions_per_product,
    )
    write_products(
        ctx.output,
        product_ids=products["product_id"],
        titles=products["title"],
        brand=brand,
        brands=brands,
        category=category,
        categories=categories,
        category_labels=[labels[path].text for path in categories],
        price=products["price"].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
        in_stock=products["in_stock"].to_numpy(),
        popularity=_popularity(products, ctx.catalogue.events),
        tokens=_tokens(ctx, products, texts, tokenizer, settings.max_product_tokens),
        captions=captions,
        caption_tokens=vocabulary,
        tokenizer=tokenizer_digest(tokenizer),
        max_product_tokens=settings.max_product_tokens,
    )
    return len(Ragged.open(ctx.output, "tokens").values), vocabulary


def _captions(ctx: BuildContext, products: pl.DataFrame) -> pl.Series:
    """Captions and descriptions, whose words are caption tokens after those of the titles."""
    made = pl.read_parquet(ctx.input("captions") / CAPTIONS_FILE, columns=["product_id", "caption"])
    joined = products.select("product_id", "description").join(made, on="product_id", how="left", maintain_order="left")
    described = pl.col("description").str.slice(0, 1000)
    texts = (
        pl.when(pl.col("caption") == "").then(described).otherwise(pl.concat_str("caption", described, separator=". "))
    )
    return joined.select(texts).to_series()


def _labels(ctx: BuildContext, products: pl.DataFrame) -> dict[str, Label]:
    """Shoppers' labels of the categories; also written as a table."""
    titles = {path: list(texts) for path, texts in products.group_by("category").agg("title").iter_rows()}
    queries = ctx.catalogue.queries
    searches = dict(queries.select("query", "count").iter_rows()) if queries is not None else {}
    labels = shopper_words(products["category"], titles, searches)
    audit_table(labels.values()).write_csv(ctx.output / "category_labels.csv")
    return labels


def _tokenizer(ctx: BuildContext, path: Path) -> Tokenizer:
    """The tokenizer of the products; also writes it."""
    try:
        tokenizer = load_tokenizer(path)
    except EngineLoadError as error:
        raise BuildError(f"store.tokenizer: {error}") from error
    tokenizer.save(str(ctx.output / "tokenizer.json"))
    return tokenizer


def _tokens(
    ctx: BuildContext, products: pl.DataFrame, encoder: TextEncoder, tokenizer: Tokenizer, limit: int
) -> Iterator[Ragged]:
    """Token ids of all products without special tokens, in parts."""
    tokenizer.enable_truncation(limit)
    rows = products.select(_TEXT_COLUMNS)
    chunks = range(0, products.height, 4096)
    # A word has at least one token, so more words than tokens are not needed.
    texts = (
        [product_text(*row, description_words=limit) for row in rows[start : start + 4096].iter_rows()]
        for start in ctx.track(chunks, "product tokens (x4096)")
    )
    return encoder.tokenise(tokenizer, f"{file_digest(ctx.output / 'tokenizer.json')} {limit}", texts)


def _codes(column: pl.Series) -> tuple[list[str], Array]:
    """The distinct texts but "", sorted, and the position of each row's (int32 [n], -1 for "")."""
    names = sorted(set(column.unique()) - {""})
    position = {name: number for number, name in enumerate(names)}
    return names, np.fromiter((position.get(text, -1) for text in column), np.int32, len(column))


def _popularity(products: pl.DataFrame, events: pl.DataFrame | None) -> Array:
    """Weighted events of each product on a log scale, 0..1: float32 [n]."""
    if events is None:
        return np.zeros(products.height, np.float32)
    weights = events.select("product_id", pl.col("type").replace_strict(_EVENT_WEIGHTS, default=1.0).alias("weight"))
    totals = weights.group_by("product_id").agg(pl.col("weight").sum())
    joined = products.select("product_id").join(totals, on="product_id", how="left", maintain_order="left")
    logs = np.log1p(joined["weight"].fill_null(0.0).to_numpy())
    return (logs / max(float(logs.max()), 1e-9)).astype(np.float32)


WITHOUT_FACTS = ("*", "!price.npy", "!in_stock.npy", f"!{REUSE}/*")
"""Files that later steps read: without prices and stock, which change often and need no new training."""
TEXTS_ONLY = (*WITHOUT_FACTS, "!popularity.npy")
"""Files for steps that do not depend on shoppers' behaviour either."""

_RANKED_BY = (
    "description_words",
    "caption_least_products",
    "caption_most_share",
    "caption_vocabulary",
    "captions_per_product",
)
"""Settings that determine the ranker's features."""

STEP = Step(
    name="store",
    needs=("catalogue", "bi_encoder", "captions"),
    settings=StoreSettings,
    run=run,
    help="writing the item store",
    shapes={
        **dict.fromkeys(("tokenizer", "max_product_tokens"), ("cross_encoder",)),
        **dict.fromkeys(_RANKED_BY, ("ranker",)),
    },
    reads={"catalogue": (TEXTS, FACTS, EVENTS, QUERIES), "captions": (CAPTIONS_FILE,)},
)
