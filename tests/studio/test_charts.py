import math

import pytest
from endcap_studio.charts import HEIGHT, WIDTH, chart


def row(day: str, group: str, value: float, views: int = 100, **interval: float) -> dict:
    return {"day": day, "source": group, "views": views, "carts": {"count": 1, "value": value, **interval}}


def test_a_line_for_each_group_within_the_picture() -> None:
    rows = [
        row("2026-03-02", "generated", 0.10, low=0.05, high=0.16),
        row("2026-03-03", "generated", 0.12, low=0.06, high=0.9),
        row("2026-03-05", "generated", 0.0),
        row("2026-03-02", "classic", 0.04, views=300),
    ]
    found = chart(rows, "source", "carts")
    assert found is not None
    assert [line.name for line in found.lines] == ["classic", "generated"], "most views first"
    generated = found.lines[1]
    assert len(generated.band.split()) == 4
    assert found.lines[0].band == ""
    assert generated.dots[0].text == "generated, 2026-03-02: 10.00 [5.00, 16.00] per 100"
    points = [tuple(map(float, each.split(","))) for line in found.lines for each in f"{line.path} {line.band}".split()]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    gaps = [late.x - early.x for early, late in zip(generated.dots, generated.dots[1:], strict=False)]
    assert gaps[1] == pytest.approx(2 * gaps[0], abs=0.2), "a day without pages takes its place"
    assert found.y_ticks[0][1] == "0"
    assert [text for _, text in found.x_ticks] == ["03-02", "03-03", "03-05"]


@pytest.mark.parametrize("value", [0.0, 1e-7, 0.003, 0.44, 7.0])
def test_ticks_are_round_and_hold_every_value(value: float) -> None:
    found = chart([row("2026-03-02", "a", value)], "source", "carts")
    assert found is not None
    ticks = [float(text) for _, text in found.y_ticks]
    assert ticks[-1] >= 100 * value * (1 - 1e-9)
    size = (ticks[1] - ticks[0]) / 10 ** math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9)
    assert size == pytest.approx(round(2 * size) / 2)


def test_nothing_to_draw() -> None:
    assert chart([], "source", "carts") is None
