import unicodedata

import pytest
from endcap_server.shop.text import folded_name, plain_text
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\uff24\uff45\uff53\uff4b\u3000\uff11\uff12", "Desk 12"),
        ("\ufb01ne o\ufb03ce", "fine office"),
        ("Acme\u2122 lamp\u00ae", "Acme lamp"),
        ("1\u00bd in", "1 1/2 in"),
        ("a\x00b\u202ec\u2028d\tf", "a b c d f"),
        ("m\u00b2", "m2"),
        ("caf\u0065\u0301", "caf\u00e9"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("\u00a0 \u202eau\u2028lait", "au lait"),
        ("  ", ""),
    ],
)
def test_plain_text(text, plain):
    assert plain_text(text) == plain


@given(st.text())
def test_plain_text_is_folded_once_and_for_all(text):
    plain = plain_text(text)
    assert plain_text(plain) == plain
    assert unicodedata.is_normalized("NFKC", plain)
    assert folded_name(text.upper()) == folded_name(plain.upper())
