"""A Llama of a GGUF file as a Hugging Face checkpoint."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from endcap_builders.pretrained.assembling import AssemblyError

_CONTROL = 3
"""GGUF's type of a special token."""
_KNOWN_SPLIT = "smollm"
"""GGUF's name of how a text is split before byte-pair merging, of which `_tokenizer` is a copy."""


def write_llama(file: Path, folder: Path) -> None:
    """Write the checkpoint, its weights in float32.

    transformers reads the weights, but makes a tokenizer of another class of a Llama's GGUF file, which splits texts in
    other places. So the tokenizer is made here of the file's own table.

    Raises:
        AssemblyError: the file has a tokenizer of another kind, or is no model.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}
        tokenizer = _tokenizer(fields)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except (KeyError, ValueError) as error:
        raise AssemblyError(f"{file.name}: expected a Llama with a byte-pair tokenizer, got {error!r}") from error
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(fields: dict[str, Any]) -> PreTrainedTokenizerFast:
    table = {name.removeprefix("tokenizer.ggml."): value for name, value in fields.items()}
    if (table["model"], table["pre"]) != ("gpt2", _KNOWN_SPLIT):
        raise ValueError(f"tokenizer {table['model']}/{table['pre']} instead of gpt2/{_KNOWN_SPLIT}")
    tokens: list[str] = table["tokens"]
    merges = [tuple(text.split(" ")) for text in table["merges"]]
    made = Tokenizer(models.BPE(vocab={token: row for row, token in enumerate(tokens)}, merges=merges))
    digits, letters = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, letters])
    made.decoder = decoders.ByteLevel()
    kinds = zip(tokens, table["token_type"], strict=True)
    control = [token for token, kind in kinds if kind == _CONTROL]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    begin, end = (tokens[table[f"{name}_token_id"]] for name in ("bos", "eos"))
    found = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=begin,
        eos_token=end,
        pad_token=tokens[table["padding_token_id"]] if "padding_token_id" in table else end,
        clean_up_tokenization_spaces=False,
    )
    found.chat_template = fields.get("tokenizer.chat_template")
    return found
