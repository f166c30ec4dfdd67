"""The page: one file, whole, with nothing of what it shows taken for markup."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from report_samples import LONG_NAME, sample_record

from paceline.bench.output.page import page
from paceline.bench.output.record import Record
from paceline.bench.sections import Plot, Section, Series

get_plotlyjs = pytest.importorskip("plotly.offline").get_plotlyjs

VOID = {"meta", "link", "br"}


class Outline(HTMLParser):
    """Tags with their attributes, texts, what scripts hold, and whether every tag is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        if data.strip() and (not self.open or self.open[-1] not in ("style", "script")):
            self.texts.append(data.strip())

    def figures(self) -> list[dict[str, Any]]:
        return [json.loads(script) for script in self.scripts if script.lstrip().startswith('{"data"')]

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def with_sections(record: Record, *sections: Section) -> Record:
    return replace(record, report=replace(record.report, sections=sections))


def test_page_needs_nothing_from_elsewhere() -> None:
    text = page([sample_record()])
    outline = Outline(text)
    for tag, attributes in outline.tags:
        assert tag not in ("img", "iframe", "object")
        for name in ("src", "href"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:")), f"{tag} {name}={target}"
    own = text.replace(get_plotlyjs(), "")
    assert len(own) < 0.02 * len(text)  # plotly.js is there, once
    assert not re.search(r"@import|url\((?!data:)|https?://", own)
    policy = next(a["content"] for tag, a in outline.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'")


def test_page_says_what_where_and_how_before_the_numbers() -> None:
    texts = Outline(page([sample_record()])).texts
    order = ["A title & more", "paceline bench test 'a b'", "Warning", "the client was late", "model", "tiny", "First"]
    places = [texts.index(text, 1 if text == order[0] else 0) for text in order]
    assert places == sorted(places)
    assert any("Test CPU, 2 cores, 4 GiB" in text for text in texts)
    assert any(text.startswith("2026-01-02 03:04:05 UTC") for text in texts)


def test_names_with_markup_are_shown_as_they_are() -> None:
    outline = Outline(page([sample_record()]))
    assert LONG_NAME in outline.texts and "Some <i>text</i>." in outline.texts
    assert outline.count("b") == 0 and outline.count("i") == 0


def test_cells_are_sorted_by_whole_numbers_and_missing_ones_have_none() -> None:
    cells = [a for tag, a in Outline(page([sample_record()])).tags if tag == "td"]
    assert [cell["data-v"] for cell in cells[:8]] == ["A", "123.456789", "0.15 – 0.25", "yes", "A", "", "", "NO"]
    assert "again" in (cells[4]["class"] or "").split() and "right" in (cells[1]["class"] or "").split()


def test_every_plot_is_a_figure_beside_its_place() -> None:
    outline = Outline(page([sample_record()]))
    assert outline.count("figure") == 2 and [tag for tag, _ in outline.tags].count("div") >= 2
    lines, bars = outline.figures()
    assert [trace["name"] for trace in lines["data"]] == ["A", "target"]
    assert [trace["type"] for trace in bars["data"]] == ["bar", "bar", "scatter", "scatter"]  # with their values


def test_figures_cannot_end_their_script_or_begin_markup() -> None:
    name = "</script><script>alert(1)</script><!-- 日本語 é \u2028"
    section = Section("S", plots=[Plot(name, name, name, [Series(name, [name], [1.0])], "bar", note=name)])
    text = page([with_sections(sample_record(), section)])
    outline = Outline(text)
    assert "<script>alert" not in text and outline.count("script") == 3  # the figure, plotly.js, the page's own
    (figure,) = outline.figures()
    assert "日本語 é" in html.unescape(figure["data"][0]["hovertext"][0]).replace("<br>", " ")


def test_plotly_is_there_once_for_several_reports_and_not_without_plots() -> None:
    library = get_plotlyjs()
    assert page([sample_record(), sample_record()]).count(library) == 1
    assert library not in page([with_sections(sample_record(), Section("S", ["No plots."]))])


def test_several_reports_have_contents_and_their_own_heads() -> None:
    text = page([sample_record(), sample_record()], "Both & all")
    outline = Outline(text)
    anchors = {a["id"] for tag, a in outline.tags if a.get("id")}
    links = [a["href"] for tag, a in outline.tags if tag == "a"]
    assert len(links) == 4 and {(link or "")[1:] for link in links} <= anchors
    assert outline.count("article") == 2 and outline.count("aside") == 2
    assert "Both & all" in outline.texts
    assert "A title & more, 2026-01-02 03:04:05" in outline.texts  # the same title twice


@pytest.mark.parametrize("series", [[], [Series("A", [], [])], [Series("A", [1.0], [float("nan")])]])
def test_a_plot_without_values_says_so(series: list[Series]) -> None:
    section = Section("S", plots=[Plot("Nothing", "x", "y", series)])
    outline = Outline(page([with_sections(sample_record(), section)]))
    assert "no values to draw" in outline.texts and not outline.figures()


def test_points_left_out_of_a_logarithmic_axis_are_told() -> None:
    section = Section("S", plots=[Plot("P", "x", "y", [Series("A", [1, 2], [0.0, 2.0])], log_y=True)])
    texts = Outline(page([with_sections(sample_record(), section)])).texts
    assert "not on the logarithmic axis: values of zero or less (1)" in texts


def test_a_series_of_nones_is_drawn_like_missing_values() -> None:
    series = Series("A", [1, 2], [None, 2.0], [None, 1.0], [None, 3.0])  # type: ignore[list-item]
    section = Section("S", plots=[Plot("P", "x", "y", [series])])
    figure = Outline(page([with_sections(sample_record(), section)])).figures()[0]
    assert figure["data"][0]["y"] == [None, 2.0]
