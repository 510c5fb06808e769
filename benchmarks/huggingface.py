"""The simplest implementations of the students: Hugging Face `generate` with xgrammar, and one forward pass."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from endcap_server.shop.prompts import CANDIDATE_TOKENS

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


class HuggingFaceOrder:
    """Orders the candidates of prompts: one right-padded batch, the logits of the numbers' tokens after each prompt.

    Args:
        checkpoint: Folder that `from_pretrained` reads.
        precision: See `HuggingFaceLlm`.
    """

    def __init__(self, checkpoint: Path, precision: str = "auto") -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch = torch
        dtype = {"auto": "auto", "bf16": torch.bfloat16, "f32": torch.float32}[precision]
        self._tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        self._model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True, dtype=dtype).eval()
        self._numbers = self._tokenizer.convert_tokens_to_ids(list(CANDIDATE_TOKENS))

    def logits(self, prompts: Sequence[str]) -> np.ndarray:
        """Logits of all candidates' tokens, float32 [prompts, 100]."""
        batch = self._tokenizer(list(prompts), return_tensors="pt", padding=True, return_token_type_ids=False)
        last = batch["attention_mask"].sum(dim=1) - 1
        with self._torch.inference_mode():
            logits = self._model(**batch, use_cache=False).logits[self._torch.arange(len(last)), last]
        found: np.ndarray = logits[:, self._numbers].float().numpy()
        return found


def ordered(counts: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ORDER and LOGIT of `keyword_llm` from all logits float32 [T, 100]."""
    given = np.arange(int(counts.max())) < counts[:, None]
    logits = logits[:, : given.shape[1]]
    order = np.argsort(np.where(given, -logits, np.inf), axis=1, kind="stable")
    return np.where(given, order, -1).astype(np.int32), np.where(given, logits, 0).astype(np.float32)
