"""The objective of a student that writes: the next token of prompt and completion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from endcap_builders.llm.examples import Example
from endcap_builders.llm.packing import pack
from endcap_builders.llm.training import Encoded


@dataclass(frozen=True)
class Writing:
    """Cross-entropy of the tokens of answers, and with a weight, of prompts.

    Attributes:
        prompt_weight: of a prompt's token; those of an answer have 1.
    """

    prompt_weight: float

    def encode(self, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], max_tokens: int) -> list[Encoded]:
        """Tokenise prompt and completion apart (as serving does) and end the completion; drop what is too long.

        An example has the length of its prompt beside its tokens.
        """
        prompts = tokenizer([example.prompt for example in examples], add_special_tokens=True)["input_ids"]
        answers = tokenizer([example.completion for example in examples], add_special_tokens=False)["input_ids"]
        encoded: list[Encoded] = []
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = [*prompt, *answer, tokenizer.eos_token_id]
            if len(ids) <= max_tokens:
                encoded.append((np.asarray(ids, np.int64), len(prompt)))
        return encoded

    def loss(self, model: Any, rows: list[list[Encoded]], width: int, device: torch.device) -> Tensor:
        """Weighted mean of the cross-entropy of each next token."""
        batch = pack(rows, width, 0).to(device)
        weights = self.weights(rows, width).to(device)[:, 1:].reshape(-1)
        logits = model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).logits[:, :-1]
        losses = functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]).float(), batch.ids[:, 1:].reshape(-1), reduction="none"
        )
        return (losses * weights).sum() / weights.sum().clamp(min=1e-6)

    def weights(self, rows: list[list[Encoded]], width: int) -> Tensor:
        """Weight of each token as a target, float32 [B, L]; 0 for padding and first tokens."""
        weights = np.zeros((len(rows), width), np.float32)
        for row, examples in enumerate(rows):
            start = 0
            for tokens, prompt in examples:
                weights[row, start + 1 : start + prompt] = self.prompt_weight
                weights[row, start + prompt : start + len(tokens)] = 1.0
                start += len(tokens)
        return torch.from_numpy(weights)
