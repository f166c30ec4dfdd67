"""Reports about speculation: what counts as a step, whose a token is, whatever stop strings and sequences do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from byte_tokens import TABLE, ids
from paceline.engine.messages import Request, SequenceDelta, StepSpeculation
from paceline.engine.output import RequestText
from paceline.engine.speculation_report import SpeculationReport, total
from paceline.sampling.params import SamplingParams
from paceline.sampling.speculative import Speculative

REPORT = Speculative(report=True)


def reporting(**params) -> RequestText:
    sampling = SamplingParams(speculative=REPORT, **params)
    return RequestText(Request(request_id="r", prompt_ids=[1], params=sampling, arrival_time=0.0), TABLE)


def delta(text: str, *sources: str, index: int = 0, drafted: dict[str, int] | None = None, **fields) -> SequenceDelta:
    step = StepSpeculation(drafted=drafted or {}, sources=list(sources), time=0.25, time_without=0.5)
    return SequenceDelta(request_id="r", index=index, token_ids=ids(text), speculation=step, **fields)


def run(text: RequestText, *deltas: SequenceDelta) -> SpeculationReport:
    for each in deltas:
        text.add(each)
    report = text.output().speculation
    assert report is not None
    return report


def test_steps_are_counted_by_the_tokens_they_gave() -> None:
    text = reporting()
    report = run(
        text,
        delta("a"),
        delta("bcd", "suffix", "suffix", drafted={"suffix": 4}),
        delta("e"),
        delta("f", drafted={"ngram": 2}),
        delta("ghi", "ngram", "suffix", drafted={"ngram": 1, "suffix": 2}, finish_reason="length"),
    )
    assert (report.steps, report.prefill_steps) == (4, 1)
    assert report.histogram == [0, 2, 0, 2]
    assert report.acceptance_length == 8 / 4
    assert (report.drafted, report.accepted) == (9, 4)
    assert report.as_dict()["by_drafter"] == {
        "suffix": {"drafted": 6, "accepted": 3},
        "ngram": {"drafted": 3, "accepted": 1},
    }
    assert (report.time_s, report.estimated_time_without_s) == (1.0, 2.0)
    (out,) = text.output().outputs
    assert out.sources == ["", "suffix", "suffix", "", "", "", "ngram", "suffix", ""]


def test_the_first_token_is_no_step_of_verification_unless_drafts_were_verified() -> None:
    assert run(reporting(), delta("a")).steps == 0
    assert run(reporting(), delta("a")).acceptance_length is None
    report = run(reporting(), delta("ab", "grammar", drafted={"grammar": 1}))
    assert (report.steps, report.prefill_steps, report.histogram) == (1, 0, [0, 0, 1])


def test_all_tokens_of_a_step_may_be_drafted() -> None:
    """As when the last allowed token is one of the draft's."""
    text = reporting()
    report = run(text, delta("a"), delta("bc", "suffix", "suffix", drafted={"suffix": 5}, finish_reason="length"))
    assert text.output().outputs[0].sources == ["", "suffix", "suffix"]
    assert (report.accepted, report.acceptance_length) == (2, 2.0)


def test_what_a_stop_string_cut_off_is_not_counted() -> None:
    text = reporting(stop=("c",))
    drafted = {"suffix": 3, "ngram": 1}
    report = run(text, delta("a"), delta("bcde", "suffix", "suffix", "ngram", drafted=drafted), delta("f"))
    (out,) = text.output().outputs
    assert (out.text, out.sources) == ("ab", ["", "suffix", "suffix"])
    assert (report.steps, report.histogram, report.accepted, report.drafted) == (1, [0, 0, 1], 2, 4)


def test_a_delta_without_tokens_is_no_step() -> None:
    report = run(reporting(), delta("a"), delta("b"), delta("", finish_reason="abort"))
    assert report.histogram == [0, 1]


def test_without_speculation_in_the_engine_steps_are_counted_all_the_same() -> None:
    text = reporting()
    report = run(text, *(SequenceDelta(request_id="r", token_ids=ids(c)) for c in "abc"))
    assert (report.steps, report.drafted, report.acceptance_length) == (2, 0, 1.0)
    assert text.output().outputs[0].sources == ["", "", ""]


def test_sequences_are_summed_and_told_apart() -> None:
    text = reporting(n=2)
    report = run(
        text,
        delta("a"),
        delta("a", index=1),
        delta("bc", "suffix", drafted={"suffix": 1}),
        delta("bcd", "ngram", "ngram", drafted={"ngram": 2}, index=1),
    )
    assert (report.steps, report.prefill_steps, report.histogram) == (2, 2, [0, 0, 1, 1])
    first, second = text.output().outputs
    assert first.speculation is not None and first.speculation.histogram == [0, 0, 1]
    assert second.speculation is not None and list(second.speculation.by_drafter) == ["ngram"]


def test_parts_of_a_stream_carry_the_report_so_far() -> None:
    text = reporting()
    steps = []
    for each in (delta("a"), delta("b"), delta("cd", "suffix", drafted={"suffix": 1})):
        part = text.add(each)
        assert part is not None and part.speculation is not None
        steps.append((part.sources, part.speculation.steps))
    assert steps == [([""], 0), ([""], 1), (["suffix", ""], 2)]


def test_nothing_is_reported_when_nobody_asked() -> None:
    request = Request(request_id="r", prompt_ids=[1], params=SamplingParams(), arrival_time=0.0)
    text = RequestText(request, TABLE)
    part = text.add(delta("ab", "suffix", drafted={"suffix": 1}))
    output = text.output()
    assert part is not None and (part.sources, part.speculation) == ([], None)
    assert (output.speculation, output.outputs[0].sources, output.outputs[0].speculation) == (None, [], None)


steps = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12)


@given(st.lists(steps, min_size=1, max_size=3))
def test_every_token_is_in_the_prefill_or_in_the_histogram(sequences) -> None:
    reports = []
    for sequence in sequences:
        report = SpeculationReport()
        count = 0
        for tokens, extra in sequence:
            sources = ["suffix"] * (tokens - 1)
            drafted = {"suffix": tokens - 1 + extra} if tokens - 1 + extra else {}
            assert len(report.add_step(tokens, StepSpeculation(drafted=drafted, sources=sources))) == tokens
            count += tokens
        weighted = sum(length * steps for length, steps in enumerate(report.histogram))
        assert weighted + report.prefill_steps == count
        assert sum(report.histogram) == report.steps
        assert report.accepted <= report.drafted
        assert report.steps == 0 or report.acceptance_length == pytest.approx(1 + report.accepted / report.steps)
        reports.append(report)
    whole = total(reports)
    assert whole.steps == sum(report.steps for report in reports) == sum(whole.histogram)
    assert (whole.drafted, whole.accepted) == (sum(r.drafted for r in reports), sum(r.accepted for r in reports))
    assert reports[0].steps == sum(reports[0].histogram), "summing must not change what is summed"
