"""Small untrained encoders of the classes that pretrained checkpoints have, with the tokenizers of these classes."""

from pathlib import Path
from typing import Any

import torch
from tiny_encoders import LETTERS, WORDS
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

CLASSES = ("bert", "mpnet", "xlm-roberta")
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.3,
    "max_position_embeddings": 130,
}
_PIECES = [*WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer with the special tokens of a class, and its way to join two texts."""
    if kind == "bert":
        begin, padding, end, unknown = "[CLS]", "[PAD]", "[SEP]", "[UNK]"
        special, pair = [padding, unknown, begin, end, "[MASK]"], f"{begin} $A {end} $B:1 {end}:1"
    else:
        begin, padding, end = "<s>", "<pad>", "</s>"
        unknown = "[UNK]" if kind == "mpnet" else "<unk>"
        special, pair = [begin, padding, end, unknown, "<mask>"], f"{begin} $A {end} {end} $B {end}"
    model: Any
    if kind == "xlm-roberta":
        pieces = [f"▁{text}" for text in (*WORDS, *LETTERS)] + ["▁", *LETTERS]
        model = models.Unigram([(text, -float(row)) for row, text in enumerate([*special, *pieces])], unk_id=3)
    else:
        model = models.WordPiece({text: row for row, text in enumerate([*special, *_PIECES])}, unk_token=unknown)
    made = Tokenizer(model)
    if kind == "xlm-roberta":
        pieces_of_words = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pieces_of_words])
    else:
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    rows = [(text, special.index(text)) for text in (begin, end)]
    made.post_processor = processors.TemplateProcessing(single=f"{begin} $A {end}", pair=pair, special_tokens=rows)
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if kind == "bert" else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=begin, eos_token=end, cls_token=begin, sep_token=end, pad_token=padding,
        unk_token=unknown, mask_token=special[4], model_input_names=inputs, model_max_length=128,
    )  # fmt: skip


def write_encoder(folder: Path, kind: str) -> None:
    """A checkpoint of the class, the same each time."""
    tokenizer = tokenizer_of(kind)
    sizes = {**_SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(5)
    model: Any
    if kind == "bert":
        model = BertModel(BertConfig(**sizes))
    elif kind == "mpnet":
        model = MPNetModel(MPNetConfig(**sizes))
    else:
        model = XLMRobertaModel(XLMRobertaConfig(**sizes, type_vocab_size=1))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_sentence_encoder(folder: Path, kind: str) -> None:
    """The same for sentence-transformers: mean pooling, normalised."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    plain = folder.with_name(f"{folder.name}-plain")
    write_encoder(plain, kind)
    encoder = Transformer(str(plain))
    modules = [encoder, Pooling(encoder.get_embedding_dimension()), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
