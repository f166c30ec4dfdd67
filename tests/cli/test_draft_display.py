"""``paceline chat --show-drafts``: marks in the stream, with colours and without, and the line of statistics."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from byte_tokens import TABLE, ids
from paceline.cli.chat import Conversation
from paceline.cli.draft_display import DraftDisplay, statistics
from paceline.engine.messages import Request, SequenceDelta, StepSpeculation
from paceline.engine.output import RequestText
from paceline.engine.speculation_report import SpeculationReport
from paceline.sampling.params import SamplingParams
from paceline.sampling.speculative import Speculative

PARAMS = SamplingParams(speculative=Speculative(report=True))
ESCAPE = re.compile(r"\x1b\[\d+m")

Step = tuple[str, list[str]]


@pytest.fixture(params=[False, True])
def colours(request, monkeypatch) -> bool:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm" if request.param else "dumb")
    return request.param


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def parts(steps: list[Step], **params):
    """What a stream gives for steps of the given texts, a token a byte; their first bytes have the given sources."""
    sampling = SamplingParams(speculative=Speculative(report=True), **params)
    text = RequestText(Request(request_id="r", prompt_ids=[1], params=sampling, arrival_time=0.0), TABLE)
    for new, sources in steps:
        step = StepSpeculation(drafted={name: sources.count(name) + 1 for name in sources}, sources=sources)
        part = text.add(SequenceDelta(request_id="r", token_ids=ids(new), speculation=step))
        if part is not None:
            yield part


def shown(steps: list[Step], target: io.StringIO | None = None, **params) -> str:
    display = DraftDisplay(target or Terminal(), ["suffix", "ngram"])
    display.begin()
    return "".join([display.show(part) for part in parts(steps, **params)] + [display.end()])


STEPS: list[Step] = [("a", []), ("bcd", ["suffix", "suffix"]), ("ef", ["ngram"]), ("gh", ["eagle"]), ("ij", ["suffix"])]


def test_drafted_text_is_marked_by_its_drafter(colours) -> None:
    expected = "a[s|bc]d[n|e]f[eagle|g]h[s|i]j"
    if colours:
        expected = "a\x1b[32mbc\x1b[0md\x1b[36me\x1b[0mf\x1b[34mg\x1b[0mh\x1b[32mi\x1b[0mj"
    assert shown(STEPS) == expected


def test_a_pipe_gets_no_escape_sequences(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert "\x1b" not in shown(STEPS, io.StringIO())


def test_no_color_is_respected(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert shown(STEPS) == "a[s|bc]d[n|e]f[eagle|g]h[s|i]j"


def test_drafts_that_follow_each_other_share_a_mark_and_the_last_one_is_closed(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    steps = [("a", []), ("bc", ["suffix", "suffix"]), ("d", ["suffix"]), ("e", ["ngram"])]
    assert shown(steps) == "a[s|bcd][n|e]"


def test_a_character_belongs_to_the_token_that_completes_it(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert shown([("a", []), ("é", ["suffix"]), ("日b", ["suffix", "suffix", "ngram"])]) == "aé[n|日]b"


def test_text_held_back_keeps_its_source(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert shown([("a", []), ("ST", ["suffix"]), ("xy", ["ngram"])], stop=("STOP",)) == "a[s|S]T[n|x]y"


sources = st.lists(st.sampled_from(["suffix", "ngram", "model", "other"]), max_size=3)


@given(st.lists(st.tuples(st.text("abé日\n ", min_size=1, max_size=4), sources), max_size=6))
def test_without_its_marks_the_text_is_the_text(steps) -> None:
    text = "".join(part.text for part in parts(steps))
    display = DraftDisplay(io.StringIO(), [])
    display._colours = True
    display.begin()
    assert ESCAPE.sub("", "".join(display.show(part) for part in parts(steps))) == text


def test_the_legend_explains_the_marks(colours) -> None:
    legend = DraftDisplay(Terminal(), ["suffix", "ngram"]).legend()
    names = "suffix, ngram" if colours else "[s|suffix], [n|ngram]"
    assert legend.plain == f"Drafted by {names}; unmarked: the model's own."
    assert {str(span.style) for span in legend.spans} == {"dim", "green", "cyan"}
    assert DraftDisplay(Terminal(), []).legend().plain.startswith("Nobody drafts here")


def test_statistics_of_an_answer() -> None:
    *_, last = parts(STEPS)
    report = last.speculation
    assert report is not None
    assert statistics(report, 10) == (
        "acceptance length 2.25, 50% drafted (accepted: suffix 3 of 5, ngram 1 of 2, eagle 1 of 2)"
    )
    assert statistics(SpeculationReport(), 1) == "", "nothing is known after the first token"


class DraftingLLM:
    """Answers with the parts of its scripts, one after the other; a part may be an exception."""

    info = SimpleNamespace(model="scripted", drafters=["suffix", "ngram"])

    def __init__(self, *script) -> None:
        self.script = list(script)
        self.asked: list[list[dict]] = []

    def chat_stream(self, messages, params, *, adapter=None):
        assert params.wants_report
        self.asked.append([dict(message) for message in messages])

        def stream():
            for part in self.script.pop(0):
                if isinstance(part, BaseException):
                    raise part
                yield part

        return stream()


def test_a_conversation_shows_drafts_and_remembers_plain_text(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    llm = DraftingLLM(list(parts(STEPS)), list(parts(STEPS[:2])))
    target = io.StringIO()
    Conversation(llm, PARAMS).run(io.StringIO("one\ntwo\n"), target)
    assert target.getvalue() == "a[s|bc]d[n|e]f[eagle|g]h[s|i]j\na[s|bc]d\n"
    assert llm.asked[1][1] == {"role": "assistant", "content": "abcdefghij"}
    legend, first, second = capsys.readouterr().err.splitlines()
    assert legend == "Drafted by [s|suffix], [n|ngram]; unmarked: the model's own."
    assert re.fullmatch(r"10 tokens, \d+ tokens/s, acceptance length 2.25, 50% drafted \(.*\)", first)
    assert re.fullmatch(r"4 tokens, \d+ tokens/s, acceptance length 3.00, 50% drafted \(.*: suffix 2 of 3\)", second)


def test_a_stopped_answer_closes_its_mark_and_has_statistics(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    steps = [("a", []), ("bc", ["suffix", "suffix"])]
    target = io.StringIO()
    Conversation(DraftingLLM([*parts(steps), KeyboardInterrupt()]), PARAMS).run(io.StringIO("one\n"), target)
    assert target.getvalue() == "a[s|bc]\n"
    assert "67% drafted (accepted: suffix 2 of 3), stopped" in capsys.readouterr().err
