"""Traces: their formats, what a window of them is, and the texts made for them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from paceline.bench.load.lengths import TokenEstimate
from paceline.bench.load.loads import Load
from paceline.bench.load.trace_texts import TraceTexts, clip, is_prose
from paceline.bench.load.traces import Trace, TraceRequest, Window, read_trace
from paceline.bench.load.workloads import TraceWorkload
from paceline.bench.prompts import DataError

SHARED = Path(__file__).parents[4] / "shared" / "data"
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:16:46.6805901,10,1
"""
MOONCAKE = [
    {"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [0, 1]},
    {"timestamp": 1500, "input_length": 1100, "output_length": 6, "hash_ids": [0, 2, 3]},
]


@pytest.fixture
def azure(tmp_path: Path) -> Path:
    path = tmp_path / "azure.csv"
    path.write_text(AZURE)
    return path


@pytest.fixture
def servegen(tmp_path: Path) -> Path:
    """Client 0: 2 requests a second for 20 minutes; client 1 comes in the second window and has no lengths of its own
    before."""
    rows = ["0,0,2,1,Gamma,1.0,9", "0,600,2,1,Weibull,1.0,9", "1,0,0,0,,0,0", "1,600,0.5,2,Gamma,0.25,9"]
    with gzip.open(tmp_path / "a_trace.csv.gz", "wt") as file:
        file.write("\n".join(rows) + "\n")
    lengths = [
        {"client": 0, "window_start_s": 0, "input_tokens": "{10: 0.5, 20: 0.5}", "output_tokens": "{3: 1.0}"},
        {"client": 0, "window_start_s": 600, "input_tokens": "{70: 1.0}", "output_tokens": "{4: 1.0}"},
        {"client": 1, "window_start_s": 0, "input_tokens": "{}", "output_tokens": "{}"},
        {"client": 1, "window_start_s": 600, "input_tokens": "{99: 1.0}", "output_tokens": "{9: 1.0}"},
    ]
    (tmp_path / "a_dataset.jsonl").write_text("\n".join(map(json.dumps, lengths)))
    return tmp_path / "a_trace.csv.gz"


def test_azures_times_start_at_zero_and_have_their_fractions(azure: Path) -> None:
    trace = read_trace(azure)
    assert trace.kind == "Azure"
    assert [(request.input_tokens, request.output_tokens) for request in trace.requests] == [
        (374, 44),
        (396, 109),
        (10, 1),
    ]
    assert [request.at for request in trace.requests] == pytest.approx([0.0, 4.314579, 60.0])


def test_a_window_has_a_start_an_end_and_a_number(azure: Path) -> None:
    assert [r.at for r in read_trace(azure, Window(start=4.0)).requests] == pytest.approx([0.314579, 56.0])
    assert len(read_trace(azure, Window(seconds=5.0)).requests) == 2
    assert len(read_trace(azure, Window(limit=1)).requests) == 1
    with pytest.raises(DataError, match="no request from 100 s on"):
        read_trace(azure, Window(start=100.0))


def test_mooncakes_blocks_are_shared_text(tmp_path: Path) -> None:
    path = tmp_path / "mooncake.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write("\n".join(map(json.dumps, MOONCAKE)))
    trace = read_trace(path)
    assert trace.kind == "Mooncake"
    assert [(r.at, r.input_tokens, r.blocks) for r in trace.requests] == [(0, 1000, (0, 1)), (1.5, 1100, (0, 2, 3))]
    estimate = TokenEstimate(0.0, 0.25)
    texts = TraceTexts(estimate, "seed")
    one, other = (texts.prompt(n, r.input_tokens, r.blocks) for n, r in enumerate(trace.requests))
    assert len(one) == 4000 and len(other) == 4400
    assert one[:2048] == other[:2048]  # 512 tokens at 4 characters
    assert one[2048:2148] != other[2048:2148]
    again = TraceTexts(estimate, "another replay").prompt(0, 1000, (0, 1))
    assert again[:100] != one[:100]


def test_texts_without_blocks_begin_differently_and_have_their_length() -> None:
    corpus = ["word " * 2000, "other things " * 900]
    for texts in (TraceTexts(TokenEstimate(10, 0.5), "s"), TraceTexts(TokenEstimate(10, 0.5), "s", corpus)):
        prompts = [texts.prompt(number, 110) for number in range(5)]
        assert {len(prompt) for prompt in prompts} == {200}
        assert prompts == [texts.prompt(number, 110) for number in range(5)]
    assert len({TraceTexts(TokenEstimate(), "s").prompt(n, 50)[:120] for n in range(20)}) == 20


def test_a_trace_with_fewer_blocks_than_tokens_goes_on_with_text_of_its_own() -> None:
    texts = TraceTexts(TokenEstimate(0.0, 0.25), "seed")
    assert len(texts.prompt(0, 2000, (7,))) == 8000


def test_lengths_are_clipped_to_the_context_and_said_so() -> None:
    assert clip(TraceRequest(0, 100, 50), None).clipped is False
    assert clip(TraceRequest(0, 100, 50), 1000) == clip(TraceRequest(0, 100, 50), None)
    long = clip(TraceRequest(0, 5000, 100), 1000)
    assert (long.input_tokens, long.output_tokens, long.clipped) == (810, 100, True)  # nine tenths of what is left
    talkative = clip(TraceRequest(0, 100, 5000), 1000)
    assert (talkative.input_tokens, talkative.output_tokens, talkative.clipped) == (100, 500, True)
    assert clip(TraceRequest(0, 0, 0), 1000).output_tokens == 1


def test_a_replay_can_be_faster_and_counts_what_it_clipped() -> None:
    trace = Trace(Path("t.csv"), "Azure", [TraceRequest(0, 50, 5), TraceRequest(8, 5000, 5), TraceRequest(30, 50, 5)])
    workload = TraceWorkload(trace, [Load("trace", 2), Load("trace", 4)], 10.0, 0, [])
    workload.fit(TokenEstimate(0, 0.25), 1000)
    shots = workload.shots(Load("trace", 2), 0)
    assert [shot.at for shot in shots] == [0, 4]  # the third one comes after 15 s: the replay ends after 10
    assert [len(shot.messages[0]["content"]) for shot in shots] == [200, 3580]
    assert all(shot.ignore_eos and shot.max_tokens == 5 for shot in shots)
    assert [shot.at for shot in workload.shots(Load("trace", 4), 0)] == [0, 2, 7.5]
    assert any("2 of 5 requests were clipped to a context of 1000 tokens" in note for note in workload.notes())
    first = shots[0].messages
    assert workload.shots(Load("trace", 2), 1)[0].messages != first  # another repeat has other texts


def test_servegen_draws_as_many_requests_as_were_recorded(servegen: Path) -> None:
    trace = read_trace(servegen, Window(seconds=600.0))
    assert trace.kind == "ServeGen"
    assert len(trace.requests) == pytest.approx(1200, rel=0.1)
    assert {r.input_tokens for r in trace.requests} == {10, 20} and {r.output_tokens for r in trace.requests} == {3}
    assert trace.requests == read_trace(servegen, Window(seconds=600.0)).requests
    assert trace.requests != read_trace(servegen, Window(seconds=600.0, seed=1)).requests
    later = read_trace(servegen, Window(start=600.0, seconds=600.0))
    assert 0 <= later.requests[0].at < 20
    by_client = [r for r in later.requests if r.input_tokens == 99]
    assert len(by_client) == pytest.approx(300, rel=0.4)
    assert {r.input_tokens for r in later.requests} == {70, 99}
    assert len(read_trace(servegen, Window(limit=50)).requests) == 50


def test_servegen_needs_its_lengths_and_an_end(servegen: Path) -> None:
    with pytest.raises(DataError, match="has no end: give --duration or --limit"):
        read_trace(servegen)
    (servegen.parent / "a_dataset.jsonl").unlink()
    with pytest.raises(DataError, match=r"a_dataset\.jsonl\[\.gz\] beside it"):
        read_trace(servegen, Window(limit=3))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "a,b\n1,2\n", "no trace that can be replayed"),
        ("x.jsonl", '{"prompt": "a"}\n', "no trace that can be replayed"),
        ("x.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n", "expected layout"),
        ("x.jsonl", '{"timestamp": 0, "input_length": 3, "hash_ids": []}\n', "expected layout"),
        ("x_trace.csv", "0,0,1,1,Pareto,1,1\n", "Pareto"),
        ("x_trace.csv", "0,0,1\n", "line 1 is no row of a ServeGen trace"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "x_dataset.jsonl").write_text("")
    with pytest.raises(DataError, match=message) as error:
        read_trace(tmp_path / name, Window(limit=1))
    assert name in str(error.value)
    with pytest.raises(DataError, match="missing"):
        read_trace(tmp_path / "nothing.csv")


def test_prose_is_told_from_code_and_other_scripts() -> None:
    assert is_prose("The harbour pilot measured the greenhouse twice, which surprised everyone who knew the story.")
    assert not is_prose("for i in range(10):\n    x[i] = (a[i] + b[i]) * 2 / c[3]\n" * 3)
    assert not is_prose("日本語の文章です。これは英語ではありません。")
    assert not is_prose("a" + " " * 200)


@pytest.mark.parametrize(
    ("name", "mean_in", "mean_out"),
    [
        ("traces_azure_2023/AzureLLMInferenceTrace_conv.csv", 1190, 200),
        ("traces_azure_2023/AzureLLMInferenceTrace_code.csv", 2030, 27),
        ("traces_mooncake/conversation_trace.jsonl.gz", 12000, 350),
    ],
)
def test_real_traces_have_the_lengths_that_are_published(name: str, mean_in: float, mean_out: float) -> None:
    if not (SHARED / name).is_file():
        pytest.skip(f"{SHARED / name} is missing")
    requests = read_trace(SHARED / name).requests
    assert sum(r.input_tokens for r in requests) / len(requests) == pytest.approx(mean_in, rel=0.1)
    assert sum(r.output_tokens for r in requests) / len(requests) == pytest.approx(mean_out, rel=0.25)
