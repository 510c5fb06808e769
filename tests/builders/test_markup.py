import html
from html.entities import html5

import pytest
from endcap_builders.markup import has_entity, has_tag, plain_text
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("<p>Quiet &amp; small</p>", "Quiet & small"),
        ("<b>G</b>reen<br/>tea<BR>bags", "Green tea bags"),
        ('<img src=x alt="a > b" />lamp', "lamp"),
        ("<input disabled>box", "box"),
        ("<my-price value='3'>3</my-price> off", "3 off"),
        ("<style>p {color: red}</style><script>x<y</script>mug<!-- old -->", "mug"),
        ("&lt;li&gt;Soft&lt;/li&gt;", "Soft"),
        ("Salt &amp;amp; pepper", "Salt & pepper"),
        ("L&#39;Or&Eacute;al&Reg; &#x2122;&hellip;&frac12;&nbsp;oz", "L'OrÉal® ™…½ oz"),
        ("a\n\tb  c", "a b c"),
    ],
)
def test_tags_and_entities_go(text: str, plain: str) -> None:
    assert plain_text(text) == plain


@pytest.mark.parametrize(
    "text",
    [
        "<12in & >6in",
        "sizes <L & >S",
        "if a<b and c>d",
        "x <y and z> w",
        "5 < 6 > 4",
        "<3 this mug",
        "AT&T, R&D&copy, fish & chips;",
        "drums&percussion;",
    ],
)
def test_what_is_no_markup_stays(text: str) -> None:
    assert plain_text(text) == text
    assert not has_tag(text)
    assert not has_entity(text)


def test_every_entity_of_html5_that_ends_with_a_semicolon() -> None:
    for name in html5:
        if name.endswith(";"):
            text = f"x&{name}y"
            # "&lt;" makes a new "<", which is no tag here; white space becomes one space.
            assert plain_text(text) == " ".join(html.unescape(text).split()), name


@given(st.text(alphabet="<>/&;ab =#'\"lt-p!12", max_size=40))
def test_plain_text_has_nothing_left_to_remove(text: str) -> None:
    plain = plain_text(text)
    assert plain_text(plain) == plain
    assert not has_tag(plain)
    assert not has_entity(plain)
