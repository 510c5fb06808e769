"""Tickets of requests, as retrieval writes them, for tests of the stages after it."""

import numpy as np
from endcap_server.declared.deadline import after_ms
from endcap_server.declared.tensors import document_tensor
from endcap_server.stages.documents import StageDocument, Ticket, with_ticket


def ticket(budget_ms: float = 2000, table: str = "retrieval") -> Ticket:
    """That of a request every part of which has this long."""
    deadline_ns = after_ms(budget_ms)
    return Ticket(table=table, deadline_ns=deadline_ns, theme_ns=deadline_ns, keywords_ns=deadline_ns)


def ticketed(document: StageDocument, of: Ticket | None = None) -> np.ndarray:
    """A document on its way: UINT8."""
    return document_tensor(with_ticket(document.json_text(), (of or ticket()).json_text()))
