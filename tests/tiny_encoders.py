"""Small untrained encoders, built in a second, for tests that need a real model but no good one."""

from pathlib import Path

import numpy as np
import torch
from endcap_server.engines.bi_encoder import load_tokenizer
from endcap_server.shop.store import Ragged, tokenizer_digest
from tiny_store import write_tiny_keywords, write_tiny_products
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = ("lamp", "table", "oak", "brass", "desk", "chair", "rug", "wool", "red", "blue", "garden", "hose", "mug", "tea")


def write_tokenizer(path: Path) -> Tokenizer:
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *LETTERS,
        *(f"##{letter}" for letter in LETTERS),
    ]
    tokenizer = Tokenizer(models.WordPiece({word: row for row, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(path))
    return tokenizer


def config(**changes: int) -> BertConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return BertConfig(vocab_size=5 + len(WORDS) + 2 * len(LETTERS), **{**sizes, **changes})


def write_sentence_checkpoint(folder: Path, **changes: int) -> None:
    """A checkpoint that sentence-transformers loads (mean pooling, normalised, a prompt for queries)."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    torch.manual_seed(1)
    base = folder.with_name(folder.name + "-base")
    base.mkdir(parents=True)
    BertModel(config(**changes)).save_pretrained(base)
    write_tokenizer(base / "tokenizer.json")
    BertTokenizerFast(tokenizer_file=str(base / "tokenizer.json")).save_pretrained(base)
    encoder = Transformer(str(base))
    modules = [encoder, Pooling(encoder.get_embedding_dimension()), Normalize()]
    SentenceTransformer(modules=modules, prompts={"query": "tea ", "document": ""}, device="cpu").save(str(folder))


def cross_encoder() -> BertForSequenceClassification:
    """An untrained cross-encoder, always the same."""
    torch.manual_seed(2)
    return BertForSequenceClassification(config(num_labels=1, initializer_range=0.3)).eval()


def write_cross_encoder(folder: Path) -> None:
    """A ``cross_encoder`` folder as the build writes it."""
    from endcap_builders.export.encoder import export_cross_encoder

    export_cross_encoder(cross_encoder(), folder / "model.xml")
    write_tokenizer(folder / "tokenizer.json")
    (folder / "calibration.json").write_text('{"scale": 2.0, "bias": -0.5, "temperature": 0.3}', encoding="utf-8")


def random_titles(count: int, seed: int = 3) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 14))) for _ in range(count)]


def write_store(build: Path, tokenizer_path: Path, titles: list[str], dimension: int = 8) -> None:
    """An item store of products that have little but a title."""
    tokenizer = load_tokenizer(tokenizer_path)
    rng = np.random.default_rng(4)
    write_tiny_products(
        build,
        rng.standard_normal((len(titles), dimension)),
        titles=titles,
        tokens=Ragged.of([tokenizer.encode(title, add_special_tokens=False).ids for title in titles]),
        tokenizer=tokenizer_digest(tokenizer),
        max_product_tokens=48,
    )
    write_tiny_keywords(build, [], np.zeros((0, dimension)))
