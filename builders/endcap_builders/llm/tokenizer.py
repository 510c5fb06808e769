"""The students' own tokenizer: a small byte-level BPE, trained on the examples.

A decoding step takes the same time for any token, so answers should have few tokens: each fixed piece of JSON between
two texts is one token, and so is a slot. An item has the same tokens everywhere in prompt and answer, which makes
copying easy to learn.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"

_PIECES = (
    r'\[\{"title":"',
    r'","concepts":\["',
    r'"\]\},\{"title":"',
    r'"\]\}\]',
    r'","',
    r" ?\{\p{N}\}",
    r" ?\p{L}+",
    r" ?\p{N}+",
    r" ?[^\s\p{L}\p{N}]",
    r"\s",
)


def train_tokenizer(texts: Iterable[str], vocabulary: int, tokens: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Train a tokenizer of at most `vocabulary` tokens: at least 300 (256 bytes and the fixed pieces) and `tokens`."""
    least = 300 + len(tokens)
    if vocabulary < least:
        raise ValueError(f"vocabulary: expected at least {least} tokens, got {vocabulary}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("|".join(_PIECES)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, *tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )


def load_tokenizer(checkpoint: str | Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a checkpoint as its `tokenizer.json` has it, whatever class the configuration names.

    One without a padding token pads with its end token.

    Raises:
        ValueError: it has no end token.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{checkpoint}: expected a tokenizer with an eos_token, got none")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
