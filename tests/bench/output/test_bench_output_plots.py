"""Plots: where values lie, and what is drawn of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest

from paceline.bench.output.plot.draw import Drawing, draw, series_classes
from paceline.bench.output.plot.scale import Scale, place_scale, place_ticks, round_ticks, tick_text, value_scale
from paceline.bench.sections import Plot, Series

Element = ElementTree.Element


def parsed(plot: Plot, width: float = 600, height: float = 330) -> tuple[Element, Drawing]:
    drawing = draw(plot, series_classes([plot])[0], width, height)
    return ElementTree.fromstring(drawing.svg), drawing


def group(svg: Element, series: int) -> Element:
    """The marks of a series; the text of its values has a group of its own behind them."""
    return svg.findall(f"g[@data-s='{series}']")[0]


def of_class(element: Element, name: str) -> list[Element]:
    return [each for each in element.iter() if name in each.get("class", "").split()]


def texts(svg: Element) -> list[str]:
    return [text.text or "" for text in svg.iter("text")]


def test_values_lie_in_proportion_and_by_their_ratio_on_a_logarithmic_axis() -> None:
    assert Scale(0, 10, 100, 300).at(2.5) == 150
    assert Scale(1, 100, 0, 200, log=True).at(10) == pytest.approx(100)
    assert not Scale(1, 100, 0, 200, log=True).holds(0)


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([1.0, 9.3], (0, 10)),  # from zero, since little stays empty
        ([85.1, 85.4], (85.1, 85.4)),
        ([5.0, 5.0], (4, 6)),
        ([-5.0, 12.0], (-5, 15)),
        ([-9.0, -1.0], (-10, 0)),
        ([], (0, 1)),
        ([math.nan, math.inf, 4.0, 1.0], (0, 4)),
        ([0.0, 0.0], (0, 1)),
    ],
)
def test_axes_hold_all_values_between_round_ends(values: Sequence[float], ends: tuple[float, float]) -> None:
    scale = value_scale(values)
    assert (scale.low, scale.high) == pytest.approx(ends)
    ticks = round_ticks(scale)
    assert 2 <= len(ticks) <= 8 and scale.low - 1e-9 <= min(ticks) and max(ticks) <= scale.high + 1e-9


def test_logarithmic_axes_name_decades_or_parts_of_them() -> None:
    assert round_ticks(value_scale([0.5, 3000], log=True)) == [1, 10, 100, 1000]
    assert round_ticks(value_scale([2, 40], log=True)) == [3, 10, 30]
    assert len(round_ticks(value_scale([7, 7], log=True))) >= 2
    assert len(round_ticks(value_scale([1e-12, 1e12], log=True))) <= 10


def test_few_values_name_themselves_where_they_have_room() -> None:
    rates = [1.0, 2, 4, 6, 8]
    assert place_ticks(place_scale(rates).moved(0, 500), rates, 6) == rates
    crowded = [1.0, 1.1, 8]
    assert place_ticks(place_scale(crowded).moved(0, 200), crowded, 6) != crowded
    doubled = [float(2**i) for i in range(11)]
    ticks = place_ticks(place_scale(doubled, log=True).moved(0, 200), doubled, 6)
    assert set(ticks) < set(doubled) and ticks[0] == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05, "0.05"), (2048, "2048"), (20000, "20k"), (32768, "32768"), (1.5e6, "1.5M"), (1e-5, "1e-5")],
)
def test_ticks_are_short(value: float, text: str) -> None:
    assert tick_text(value) == text


def test_a_line_is_broken_where_a_value_is_missing_and_its_band_with_it() -> None:
    nan = math.nan
    series = Series("A", [1, 2, 3, 4, 5], [1, 2, nan, 4, 5], [0.5, 1, nan, 3, 4], [2, 3, nan, 5, 6])
    svg, _ = parsed(Plot("t", "x", "y", [series]))
    paths = of_class(group(svg, 0), "line")
    assert len(paths) == 2 and len(of_class(group(svg, 0), "band")) == 2
    assert len(of_class(group(svg, 0), "mark")) == 4


def test_a_single_point_has_a_whisker_in_place_of_a_band() -> None:
    svg, _ = parsed(Plot("t", "x", "y", [Series("A", [3], [7.0], [6.0], [8.0])]))
    assert not of_class(svg, "line") and not of_class(svg, "band")
    assert len(of_class(svg, "whisker")) == 1
    (mark,) = of_class(svg, "mark")
    assert mark.get("data-t") == "A\nx: 3\ny: 7.00 (6.00 – 8.00)"


def test_higher_values_lie_higher() -> None:
    svg, _ = parsed(Plot("t", "x", "y", [Series("A", [1, 2], [1.0, 2.0])]))
    low, high = of_class(svg, "mark")
    assert float(high.get("cy", 0)) < float(low.get("cy", 0))
    assert float(high.get("cx", 0)) > float(low.get("cx", 0))


def test_limits_are_dashed_without_marks_and_one_value_holds_everywhere() -> None:
    limits = [Series("roof", [1, 10], [1, 10], limit=True), Series("target", [5], [3.0], limit=True)]
    svg, _ = parsed(Plot("t", "x", "y", [*limits, Series("A", [1, 10], [0.5, 5])]))
    assert group(svg, 0).get("class") == "limit d0" and group(svg, 1).get("class") == "limit d1"
    assert group(svg, 2).get("class") == "c0"
    assert not of_class(group(svg, 0), "mark")
    (line,) = of_class(group(svg, 1), "line")
    start, end = re.findall(r"([\d.]+),([\d.]+)", line.get("d", ""))
    assert start[1] == end[1] and float(end[0]) - float(start[0]) > 500


def test_values_that_a_logarithmic_axis_cannot_show_are_counted() -> None:
    svg, drawing = parsed(Plot("t", "x", "y", [Series("A", [0, 1, 10], [1, 0, 5])], log_x=True, log_y=True))
    assert drawing.left_out == 2
    assert len(of_class(svg, "mark")) == 1


def test_bars_stand_on_zero_beside_each_other_with_their_values() -> None:
    a, b = Series("A", ["chat", "edit"], [2.0, 4.0]), Series("B", ["edit"], [-1.0])
    svg, _ = parsed(Plot("t", "set", "AL", [a, b], "bar"))
    first, second = of_class(group(svg, 0), "bar")
    (third,) = of_class(group(svg, 1), "bar")
    assert float(second.get("height", 0)) == pytest.approx(2 * float(first.get("height", 0)), abs=0.2)
    foot = float(second.get("y", 0)) + float(second.get("height", 0))
    assert float(third.get("y", 0)) == pytest.approx(foot, abs=0.2)  # below zero
    assert float(third.get("x", 0)) > float(second.get("x", 0))
    assert {"2.00", "4.00", "-1.00", "chat", "edit"} <= set(texts(svg))


def test_bars_whose_names_have_no_room_lie_and_make_the_drawing_as_high_as_they_need() -> None:
    names = [f"a long name of engine number {i}" for i in range(8)]
    series = [Series(f"S{i}", names, [1.0 + i] * 8, [0.9] * 8, [8.0] * 8) for i in range(4)]
    svg, drawing = parsed(Plot("t", "", "speed", series, "bar"))
    assert drawing.height > 8 * 4 * 15
    bars = of_class(svg, "bar")
    assert len(bars) == 32 and len({bar.get("x") for bar in bars}) == 1
    assert float(of_class(group(svg, 3), "bar")[0].get("width", 0)) == pytest.approx(
        4 * float(of_class(group(svg, 0), "bar")[0].get("width", 0)), abs=0.5
    )
    assert set(names) <= set(texts(svg))


def test_bars_over_numbers_stand_in_the_order_of_the_numbers() -> None:
    svg, _ = parsed(Plot("t", "length", "share", [Series("A", [3, 1, 2], [0.2, 0.5, 0.3])], "bar"))
    at = {bar.get("data-t", "").split("\n")[1]: float(bar.get("x", 0)) for bar in of_class(svg, "bar")}
    assert at["length: 1"] < at["length: 2"] < at["length: 3"]


def test_names_along_a_line_are_turned_where_they_have_no_room() -> None:
    names = [f"a model with the long name number {i}" for i in range(12)]
    svg, _ = parsed(Plot("t", "model", "score", [Series("A", names, [float(i) for i in range(12)])]))
    turned = [text for text in svg.iter("text") if "rotate(-35" in text.get("transform", "")]
    assert len(turned) == 12
    assert len(of_class(svg, "mark")) == 12


def test_everything_lies_inside_the_drawing() -> None:
    values = [10.0**i for i in range(-3, 6)]
    spread = ([value / 2 for value in values], [value * 2 for value in values])
    for log in (False, True):
        plot = Plot("t", "x " * 60, "a long title " * 10, [Series("A", values, values, *spread)], log_x=log, log_y=log)
        svg, drawing = parsed(plot, 350, 280)
        for mark in of_class(svg, "mark"):
            assert 0 <= float(mark.get("cx", -1)) <= 350 and 0 <= float(mark.get("cy", -1)) <= drawing.height


def test_a_cloud_of_points_is_drawn_pale_and_whole() -> None:
    xs = [float(i) for i in range(1000)]
    svg, _ = parsed(Plot("t", "x", "y", [Series("A", xs, xs)], "scatter"))
    assert len(of_class(svg, "crowd")) == 1000


def test_a_series_with_lists_of_different_lengths_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="'A' of plot 't'"):
        draw(Plot("t", "x", "y", [Series("A", [1, 2], [1.0])]), ["c0"], 600, 330)


def test_names_keep_their_colours_from_plot_to_plot() -> None:
    def plot(*names: str) -> Plot:
        return Plot("t", "x", "y", [Series(name, [1], [1.0]) for name in names])

    assert series_classes([plot("A", "B"), plot("C", "B"), plot("B", "A"), plot("D")]) == [
        ["c0", "c1"],
        ["c0", "c1"],
        ["c1", "c0"],
        ["c0"],
    ]
    many = series_classes([plot(*(str(i) for i in range(25)))])[0]
    assert sorted(map(many.count, set(many))) == [2] * 5 + [3] * 5


def test_text_from_outside_is_no_markup() -> None:
    svg, _ = parsed(Plot("<t>", "<x>", '"&y', [Series("<script>", ["<b>", "c"], [1.0, 2.0])], "bar"))
    assert "<x>" in texts(svg) and "<b>" in texts(svg)
    assert svg.get("aria-label") == "Plot: <t>"


def test_values_of_bars_lie_above_limits() -> None:
    limit = Series("target", ["chat"], [2.1], limit=True)
    svg, _ = parsed(Plot("t", "set", "AL", [Series("A", ["chat"], [2.0]), limit], "bar"))
    groups = [(each.get("data-s"), bool(of_class(each, "value"))) for each in svg.findall("g[@data-s]")]
    assert groups == [("0", False), ("1", False), ("0", True)]  # the script hides both of a series
