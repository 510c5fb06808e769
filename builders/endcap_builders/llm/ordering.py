"""The objective of a student that orders numbered candidates: a listwise loss over the teacher's order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from endcap_server.shop.prompts import CANDIDATE_TOKENS, listed_candidates
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from endcap_builders.llm.examples import OrderExample
from endcap_builders.llm.packing import pack
from endcap_builders.llm.training import Encoded


class Ordering:
    """Plackett-Luce likelihood of the teacher's choices, by the logits of the candidates' tokens after the prompt.

    The teacher chooses the best candidate among all, then the second among the others, and so on (ListMLE, Xia et al.
    2008, for the first places). Candidates that the teacher did not choose have no order.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """The ids of the candidates' tokens are those of `tokenizer`."""
        self._tokens = torch.tensor(tokenizer.convert_tokens_to_ids(list(CANDIDATE_TOKENS)))

    def encode(
        self, tokenizer: PreTrainedTokenizerFast, examples: Sequence[OrderExample], max_tokens: int
    ) -> list[Encoded]:
        """Tokenise the prompts; drop what is too long.

        An example has the number of its candidates and the teacher's order beside its tokens.
        """
        prompts = tokenizer([example.prompt for example in examples], add_special_tokens=True)["input_ids"]
        return [
            (np.asarray(ids, np.int64), (len(listed_candidates(example.prompt)), example.order))
            for ids, example in zip(prompts, examples, strict=True)
            if len(ids) <= max_tokens
        ]

    def loss(self, model: Any, rows: list[list[Encoded]], width: int, device: torch.device) -> Tensor:
        """Mean of the examples' negative log-likelihoods, each divided by its number of choices."""
        batch = pack(rows, width, 0).to(device)
        hidden = model.get_decoder()(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        last = hidden.reshape(-1, hidden.shape[-1])[batch.ends]
        logits = (last @ model.get_output_embeddings().weight[self._tokens.to(device)].T).float()
        return listwise_loss(logits, [given for row in rows for _, given in row])


def listwise_loss(logits: Tensor, given: Sequence[tuple[int, Sequence[int]]]) -> Tensor:
    """Mean negative log-likelihood of orders under Plackett and Luce.

    Args:
        logits: float [n, C] of all candidates.
        given: of each row, the number of its candidates, and the order of the best ones (numbers from 0).
    """
    places = max(len(order) for _, order in given)
    order = torch.zeros(len(given), places, dtype=torch.long)
    chosen = torch.zeros(len(given), places)
    missing = torch.ones(logits.shape, dtype=torch.bool)
    for row, (count, best) in enumerate(given):
        order[row, : len(best)] = torch.tensor(best)
        chosen[row, : len(best)] = 1 / len(best)
        missing[row, :count] = False
    order, chosen, missing = (tensor.to(logits.device) for tensor in (order, chosen, missing))
    total = logits.new_zeros(())
    for place in range(places):
        left = torch.log_softmax(logits.masked_fill(missing, -torch.inf), dim=1).gather(1, order[:, place : place + 1])
        weight = chosen[:, place : place + 1]
        total = total - torch.where(weight > 0, left * weight, 0.0).sum()
        missing = missing.scatter(
            1, order[:, place : place + 1], missing.gather(1, order[:, place : place + 1]) | (weight > 0)
        )
    return total / len(given)
