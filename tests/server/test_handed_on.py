"""Documents on their way between stages, and the tickets in them."""

import json

import numpy as np
import pytest
from endcap_server.stages.documents import PageRequest, ThemeRequest, Themes, content_and_ticket, ticket_of
from endcap_server.stages.status import carried
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tickets import ticket, ticketed

TEXTS = st.text() | st.sampled_from(['","ticket":{', '"ticket":{"table":"x"}', "}", '\\",\\"ticket\\":{'])


@given(shopper=TEXTS, campaign=TEXTS)
def test_the_content_is_all_but_the_ticket_whatever_it_says(shopper: str, campaign: str) -> None:
    rules = {"campaign": campaign}
    one, two = (ThemeRequest(ticket=ticket(ms), shopper=shopper, placements=4, rules=rules) for ms in (5, 5000))
    assert one.tensor().tolist() != two.tensor().tolist()
    assert content_and_ticket(one.tensor())[0] == content_and_ticket(two.tensor())[0]
    other = ThemeRequest(ticket=one.ticket, shopper=shopper + "!", placements=4, rules=rules)
    assert content_and_ticket(other.tensor())[0] != content_and_ticket(one.tensor())[0]
    assert ticket_of(two.tensor()) == two.ticket
    assert ThemeRequest.read(two.tensor()).ticket == two.ticket


@given(title=TEXTS)
def test_a_ticket_goes_along_with_themes_and_a_status(title: str) -> None:
    themes, given_ticket = Themes(titles=(title,), concepts=((title,),)), ticket()
    alone = ticketed(themes, given_ticket)
    along = carried({"source": "generated", "finished_ns": 7}, alone.tobytes().decode(errors="replace"))
    assert content_and_ticket(along) == content_and_ticket(alone)
    assert ticket_of(along) == given_ticket
    assert json.loads(along.tobytes())["status"] == {"source": "generated", "finished_ns": 7}


@pytest.mark.parametrize("document", [b"", b"{}", b'{"titles":[]}', b'{"ticket":', b'x,"ticket":\xff}'])
def test_a_document_without_a_ticket(document: bytes) -> None:
    tensor = np.frombuffer(document, np.uint8)
    content_and_ticket(tensor)
    with pytest.raises(ValueError, match="Ticket"):
        ticket_of(tensor)


@pytest.mark.parametrize("table", ["", "../retrieval", "a/b", "retrieval\0"])
def test_a_table_is_called_as_a_model(table: str) -> None:
    with pytest.raises(ValidationError):
        ticket(table=table)
    assert PageRequest(ticket=ticket(table="retrieval__g12"), placements=0, products=1).is_search
