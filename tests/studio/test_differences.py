from endcap_client import Page, Placement, ScoredProduct, Status
from endcap_studio.differences import difference

STATUS = Status({}, (), {}, {})


def page(*placements: tuple[str, str, str]) -> Page:
    """A page of (title, source, ids as letters)."""
    return Page(
        tuple(
            Placement(title, (), tuple(ScoredProduct(each, 1.0) for each in ids), source)
            for title, source, ids in placements
        ),
        STATUS,
        0.1,
    )


def test_equal_pages() -> None:
    same = page(("Rain", "generated", "abc"), ("Tea", "generated", "de"))
    found = difference(same, same)
    assert not found.changed
    assert found.before == found.after == {}
    assert (found.products, found.new_products, found.moved_products) == (5, 0, 0)


def test_what_is_new_what_has_moved_and_what_goes() -> None:
    before = page(("Rain", "generated", "abc"), ("A tea that has a long title, for one", "generated", "de"))
    after = page(("Rain", "generated", "bxc"), ("Socks", "generated", "d"))
    found = difference(before, after)
    assert found.before == {(0, "a"): ("gone", "goes"), (1, "e"): ("gone", "goes")}
    assert found.after == {
        (0, "b"): ("moved", "was 2nd"),
        (0, "x"): ("new", "new"),
        (1, "d"): ("moved", "was 1st in A tea that has a long t…"),
    }
    assert (found.new_titles, found.gone_titles) == (("Socks",), ("A tea that has a long title, for one",))


def test_titles_of_classic_placements_follow_their_products() -> None:
    before = page(("Buy again: tea", "classic:buy_again", "ab"))
    after = page(("Buy again: socks", "classic:buy_again", "ab"))
    found = difference(before, after)
    assert found.after == {}
    assert found.changed, "shoppers see another title"


def test_order_of_placements_counts() -> None:
    one, two = ("Rain", "generated", "a"), ("Tea", "generated", "b")
    assert difference(page(one, two), page(two, one)).changed
    assert difference(page(), page(one)).new_products == 1
