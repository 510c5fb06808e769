import pytest
from endcap_server.shop.title_checks import lists_a_thing_twice


@pytest.mark.parametrize("title", ["Milk and milk", "Eggs, bread and egg", "Candy packaged with candy packaged"])
def test_a_thing_listed_twice(title: str) -> None:
    assert lists_a_thing_twice(title)


@pytest.mark.parametrize(
    "title", ["Milk and oat milk", "Fresh vegetables and frozen vegetables", "Eggs, bread and tea"]
)
def test_things_listed_once(title: str) -> None:
    assert not lists_a_thing_twice(title)
