import pytest
from endcap_server.shop.store import ItemStore
from endcap_server.shop.understanding import NotUnderstood, Understanding
from tiny_shop import build_shop


@pytest.fixture(scope="module")
def understanding(tmp_path_factory: pytest.TempPathFactory) -> Understanding:
    return Understanding.of(ItemStore.open(build_shop(tmp_path_factory.mktemp("shop"))))


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        ("desk lamp", None),
        ("xqzt", None),
        ("4006381333931", None),
        ("caf\u00e9 \u2615", None),
        ("12\u2033 pipe", None),
        ("\u043b\u0430\u043c\u043f\u0430", NotUnderstood.UNKNOWN_SCRIPT),
        ("\u30c6\u30fc\u30d6\u30eb", NotUnderstood.UNKNOWN_SCRIPT),
        ("\U0001f600\U0001f415 a", NotUnderstood.UNKNOWN_SCRIPT),
        ("\U0001f600", NotUnderstood.NO_WORDS),
        ("?!...", NotUnderstood.NO_WORDS),
    ],
)
def test_what_is_understood(understanding, text, doubt):
    assert understanding.doubt(text) == doubt
    assert (understanding.relevance_factor(text) == 1) == (doubt is None)
