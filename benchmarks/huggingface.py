"""The simplest implementation of a student: Hugging Face `generate` with xgrammar's logits processor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

PRECISIONS = ("auto", "bf16", "f32")


class HuggingFaceLlm:
    """Greedy decoding of one left-padded batch, a grammar for each prompt.

    Args:
        checkpoint: Folder that `from_pretrained` reads.
        precision: "bf16", "f32", or "auto": the checkpoint's own precision, which is the library's default.
    """

    def __init__(self, checkpoint: Path, precision: str = "auto") -> None:
        import torch
        import xgrammar
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch, self._xgrammar = torch, xgrammar
        dtype = {"auto": "auto", "bf16": torch.bfloat16, "f32": torch.float32}[precision]
        self._tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True, padding_side="left")
        self._model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True, dtype=dtype).eval()
        config = self._model.config
        info = xgrammar.TokenizerInfo.from_huggingface(self._tokenizer, vocab_size=config.vocab_size)
        self._compiler = xgrammar.GrammarCompiler(info)
        self._end = int(config.eos_token_id)

    def generate(self, prompts: Sequence[str], grammars: Sequence[str], max_tokens: int) -> list[tuple[str, str]]:
        """Text and finish reason ("stop" or "length") of each prompt."""
        compiled = [self._compiler.compile_grammar(self._xgrammar.Grammar.from_ebnf(grammar)) for grammar in grammars]
        processor = self._xgrammar.contrib.hf.LogitsProcessor(compiled)
        batch = self._tokenizer(list(prompts), return_tensors="pt", padding=True, return_token_type_ids=False)
        with self._torch.inference_mode():
            ids = self._model.generate(
                **batch, max_new_tokens=max_tokens, do_sample=False, logits_processor=[processor]
            )
        written = ids[:, batch["input_ids"].shape[1] :]
        ended = (written == self._end).any(dim=1).tolist()
        texts = self._tokenizer.batch_decode(written, skip_special_tokens=True)
        return [(text, "stop" if end else "length") for text, end in zip(texts, ended, strict=True)]
