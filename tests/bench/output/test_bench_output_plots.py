"""Plots as figures of plotly: what is drawn of the values, and where."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from paceline.bench.output.plot_values import colours_of, left_out, points_of, shown
from paceline.bench.output.plots import AREA, UPRIGHT_BARS, figure
from paceline.bench.sections import Plot, Series

NAN = math.nan


def drawn(plot: Plot) -> dict[str, Any]:
    """The figure as the browser gets it."""
    pytest.importorskip("plotly")
    read: dict[str, Any] = json.loads(figure(plot, colours_of([plot])[0]).to_json())
    return read


def traces(told: dict[str, Any], series: int) -> list[dict[str, Any]]:
    """All that a click on a series' name hides."""
    return [trace for trace in told["data"] if trace["legendgroup"] == str(series)]


def test_a_line_is_broken_where_a_value_is_missing_and_its_band_with_it() -> None:
    series = Series("A", [1, 2, 3, 4, 5], [1, 2, NAN, 4, 5], [0.5, 1, NAN, 3, 4], [2, 3, NAN, 5, 6])
    band, line = traces(drawn(Plot("t", "x", "y", [series])), 0)
    assert line["y"] == [1, 2, None, 4, 5] and not line["connectgaps"] and "error_y" not in line
    assert band["fill"] == "toself" and not band["showlegend"]
    assert band["x"] == [1, 2, 2, 1, None, 4, 5, 5, 4, None]
    assert band["y"] == [2, 3, 1, 0.5, None, 5, 6, 4, 3, None]


def test_a_point_without_neighbours_is_marked_with_an_error_bar_in_place_of_a_band() -> None:
    (line,) = traces(drawn(Plot("t", "x", "y", [Series("A", [3, 4], [7.0, NAN], [6.0, NAN], [9.0, NAN])])), 0)
    assert line["mode"] == "lines+markers"
    assert line["error_y"]["array"] == [2.0, None] and line["error_y"]["arrayminus"] == [1.0, None]
    assert line["hovertext"][0] == "A<br>x: 3<br>y: 7 (6 – 9)"


def test_points_and_bars_have_error_bars() -> None:
    spread = ([1.0, 2.0], [0.5, 1.5], [2.0, 4.0])
    (points,) = traces(drawn(Plot("t", "x", "y", [Series("A", [1, 2], *spread)], "scatter")), 0)
    bars, _ = traces(drawn(Plot("t", "x", "y", [Series("A", ["a", "b"], *spread)], "bar")), 0)
    assert points["mode"] == "markers" and bars["type"] == "bar"
    for trace in (points, bars):
        assert trace["error_y"]["array"] == [1.0, 2.0] and trace["error_y"]["arrayminus"] == [0.5, 0.5]
        assert trace["error_y"]["symmetric"] is False


def test_a_spread_that_nobody_could_see_has_no_error_bar() -> None:
    told = drawn(Plot("t", "x", "y", [Series("A", ["a", "b"], [1.0, 2.0], [1.0, 1.5], [1.0, 2.5])], "bar"))
    assert told["data"][0]["error_y"]["array"] == [None, 0.5]


def test_limits_are_dashed_without_marks_and_one_value_holds_everywhere() -> None:
    limits = [Series("roof", [1, 10], [1, 10], limit=True), Series("target", [5], [3.0], limit=True)]
    told = drawn(Plot("t", "x", "y", [*limits, Series("A", [2, 8], [0.5, 5])]))
    (roof,), (target,), (line,) = (traces(told, i) for i in range(3))
    assert (roof["mode"], target["mode"]) == ("lines", "lines")
    assert (roof["line"]["dash"], target["line"]["dash"]) == ("dash", "dot") and "dash" not in line["line"]
    assert target["x"] == [1, 10] and target["y"] == [3, 3]


def test_limits_of_bars_lie_across_their_category() -> None:
    limit = Series("target", ["b"], [2.5], limit=True)
    told = drawn(Plot("t", "set", "y", [Series("A", ["a", "b"], [1.0, 2.0]), limit], "bar"))
    (line,) = traces(told, 1)
    assert line["x"] == [0.6, 1.4, None] and line["y"][:2] == [2.5, 2.5]


def test_logarithmic_axes_leave_out_what_they_cannot_show_and_count_it() -> None:
    plot = Plot("t", "x", "y", [Series("A", [0, 1, 10, 5], [1, 0, 5, NAN])], log_x=True, log_y=True)
    told = drawn(plot)
    assert left_out(plot) == 2
    assert told["data"][0]["y"] == [None, None, 5, None]
    assert told["layout"]["xaxis"]["type"] == told["layout"]["yaxis"]["type"] == "log"


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"]),  # themselves
        ([3.0, 3.1, 300.0], ["1", "2", "5", "10", "20", "50", "100", "200", "500", "1,000", "2,000", "5,000"]),
        ([3e-3, 3.1e-3, 5e6], [f"{10.0**power:,g}" for power in range(-3, 8)]),
        ([7.0, 7.1, 7.2], None),  # plotly's own
    ],
)
def test_logarithmic_axes_name_values_with_all_their_digits(values: Sequence[float], ticks: list[str] | None) -> None:
    told = drawn(Plot("t", "x", "y", [Series("A", values, values)], log_x=True))
    assert told["layout"]["xaxis"].get("ticktext") == ticks


@pytest.mark.parametrize(("values", "from_zero"), [([1.0, 9.3], True), ([85.1, 85.4], False), ([-5.0, 12.0], False)])
def test_axes_begin_at_zero_when_little_stays_empty(values: Sequence[float], from_zero: bool) -> None:
    told = drawn(Plot("t", "x", "y", [Series("A", [1, 2], values)]))
    assert (told["layout"]["yaxis"].get("rangemode") == "tozero") == from_zero


def test_bars_stand_beside_each_other_in_the_order_of_names_with_their_values() -> None:
    a, b = Series("A", ["edit", "chat"], [2.0, NAN]), Series("B", ["chat"], [-1.0])
    told = drawn(Plot("t", "set", "AL", [a, b], "bar"))
    (first, first_values), (second, second_values) = traces(told, 0), traces(told, 1)
    assert first["x"] == [0, 1] and second["x"] == [1] and first["y"] == [2, None]
    assert first["offset"] + first["width"] <= second["offset"]
    assert told["layout"]["xaxis"]["ticktext"] == ["edit", "chat"]
    assert [text.strip() for text in [*first_values["text"], *second_values["text"]]] == ["2.00", "", "-1.00"]
    middle = second["x"][0] + second["offset"] + second["width"] / 2
    assert second_values["x"] == pytest.approx([middle]) and second_values["y"] == [0]


def test_bars_whose_names_have_no_room_lie_and_have_the_height_that_they_need() -> None:
    names = [f"a long name of engine number {i}" for i in range(8)]
    series = [Series(f"S{i}", names, [1.0 + i] * 8, [0.9] * 8, [8.0] * 8) for i in range(4)]
    told = drawn(Plot("t", "engine", "speed [1/s]", series, "bar"))
    bars = traces(told, 3)[0]
    assert bars["orientation"] == "h" and bars["x"] == [4.0] * 8 and bars["error_x"]["array"] == [4.0] * 8
    assert told["layout"]["meta"]["area"] > 8 * 4 * 15
    assert told["layout"]["xaxis"]["title"]["text"] == "speed [1/s]"
    start, end = told["layout"]["yaxis"]["range"]
    assert start > end  # the first name on top


def test_bars_over_numbers_stand_in_the_order_of_the_numbers_without_values_when_there_are_many() -> None:
    few = drawn(Plot("t", "length", "share", [Series("A", [3, 1, 20], [0.2, 0.5, 0.3])], "bar"))
    assert few["layout"]["xaxis"]["ticktext"] == ["1", "3", "20"] and few["data"][0]["x"] == [1, 0, 2]
    many = [float(i) for i in range(UPRIGHT_BARS + 1)]
    told = drawn(Plot("t", "length", "share", [Series("A", many, many)], "bar"))
    assert told["layout"]["meta"]["area"] == AREA and len(told["data"]) == 1


def test_lines_over_names_keep_their_order_and_gaps() -> None:
    series = [Series("A", ["tiny", "small", "large"], [1, 2, 3]), Series("B", ["tiny", "large"], [2, 2])]
    told = drawn(Plot("t", "model", "score", [*series, Series("best", ["small"], [4], limit=True)]))
    assert told["data"][1]["x"] == [0, 2] and told["layout"]["xaxis"]["ticktext"] == ["tiny", "small", "large"]
    assert told["data"][2]["x"] == told["layout"]["xaxis"]["range"]


def test_a_cloud_of_points_is_drawn_small_pale_and_whole() -> None:
    xs = [float(i) for i in range(1000)]
    (trace,) = drawn(Plot("t", "x", "y", [Series("A", xs, xs)], "scatter"))["data"]
    assert len(trace["x"]) == 1000 and trace["marker"]["opacity"] < 0.5 and trace["marker"]["size"] < 5


@pytest.mark.parametrize(
    ("names", "shows"), [(["A"], True), (["y"], False), (["t"], False), ([""], False), (["y", "A"], True)]
)
def test_a_legend_says_what_titles_do_not(names: list[str], shows: bool) -> None:
    told = drawn(Plot("t", "x", "y", [Series(name, [1], [1.0]) for name in names]))
    assert told["layout"]["showlegend"] == shows


def test_tips_tell_more_digits_than_tables_and_units() -> None:
    plot = Plot("t", "rate [1/s]", "TTFT [s]", [Series("A", [0.5, 1], [0.123456, 12345.0])])
    assert points_of(plot)[0][0].tips == [
        "A<br>rate [1/s]: 0.5<br>TTFT [s]: 0.123456",
        "A<br>rate [1/s]: 1<br>TTFT [s]: 12,345",
    ]


def test_text_from_outside_is_no_markup_formula_or_template() -> None:
    assert shown("<b>a</b> & $x$ %{y}", 60) == "&lt;b&gt;a&lt;/b&gt; &amp; &#36;x&#36; &#37;{y}"
    assert shown("one two three", 8) == "one two<br>three"
    told = drawn(Plot("t", "<x>", "y", [Series("<script>", ["<b>", "c"], [1.0, 2.0])], "bar"))
    assert told["layout"]["xaxis"]["ticktext"][0] == "&lt;b&gt;" and told["data"][0]["name"] == "&lt;script&gt;"


def test_a_series_with_lists_of_different_lengths_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="'A' of plot 't'"):
        points_of(Plot("t", "x", "y", [Series("A", [1, 2], [1.0])]))


def test_names_keep_their_colours_from_plot_to_plot() -> None:
    def plot(*names: str) -> Plot:
        return Plot("t", "x", "y", [Series(name, [1], [1.0]) for name in names])

    def colours(*numbers: int) -> list[str]:
        return [f"var(--c{number})" for number in numbers]

    plots = [plot("A", "B"), plot("C", "B"), plot("B", "A"), plot("D")]
    assert colours_of(plots) == [colours(0, 1), colours(0, 1), colours(1, 0), colours(0)]
    many = colours_of([plot(*(str(i) for i in range(25)))])[0]
    assert sorted(map(many.count, set(many))) == [2] * 5 + [3] * 5


def test_colours_are_those_of_the_page_and_limits_have_none_of_a_series() -> None:
    series = [Series("target", [1, 2], [1, 1], limit=True), Series("A", [1, 2], [1, 2])]
    told = drawn(Plot("t", "x", "y", series))
    assert [trace["line"]["color"] for trace in told["data"]] == ["var(--ink)", "var(--c0)"]
