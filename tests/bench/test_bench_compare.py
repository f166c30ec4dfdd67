"""A comparison: turns, equal prompts, suspension, failures; its goals and its table."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from fake_engines import ScriptedTarget

from paceline.bench.client import Timeline
from paceline.bench.noise import NoiseGuard
from paceline.bench.peers import comparison as compare_module
from paceline.bench.peers import scenarios
from paceline.bench.peers.comparison import Comparison
from paceline.bench.peers.goals import Engines, judge_all
from paceline.bench.peers.report import comparison_table, measurements_json, peers_report, verdicts_json, verdicts_table
from paceline.bench.peers.scenarios import (
    BATCH_16,
    BUSY_SHARE,
    DECODE_350,
    SCENARIOS,
    START,
    TOKEN_COST,
    TTFT_350,
    Scenario,
)
from paceline.bench.progress import Silent
from paceline.bench.prompts import PromptSource


class SilentGuard(NoiseGuard):
    """Takes no time."""

    def sample(self) -> None:
        pass


def comparison(
    targets: list[ScriptedTarget], chosen: tuple[Scenario, ...], rounds: int = 3, starts: int = 2
) -> Comparison:
    prompts = PromptSource(lambda text: [ord(character) for character in text])
    return Comparison(list(targets), chosen, prompts, rounds, starts, Silent(), guard=SilentGuard())


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    class Idle:
        def __enter__(self) -> None: ...

        def __exit__(self, *exception: object) -> None: ...

    monkeypatch.setattr(scenarios, "BusyLoop", Idle)


def test_engines_take_turns_within_each_round() -> None:
    history: list[str] = []
    run = comparison([ScriptedTarget("A", history, kind="own"), ScriptedTarget("B", history)], SCENARIOS[:1])
    asyncio.run(run.run())
    assert history[:4] == ["start A", "start B", "start A", "start B"]
    assert [entry for entry in history if entry.endswith("350/128")] == ["A 350/128", "B 350/128"] * 3


def test_every_engine_gets_the_same_prompts_and_none_twice() -> None:
    first, second = ScriptedTarget("A", [], kind="own"), ScriptedTarget("B", [])
    asyncio.run(comparison([first, second], SCENARIOS[:5]).run())
    measured = [[p for p in target.prompts if len(p) == 350] for target in (first, second)]
    assert set(measured[0][17:]) == set(measured[1][17:])  # behind the warm-up
    for target in (first, second):
        starts = [prompt[:16] for prompt in target.prompts]
        assert len(set(starts)) == len(starts)


def test_prompts_of_the_whole_run_are_made_before_any_engine_starts() -> None:
    targets = [ScriptedTarget("A", [], kind="own"), ScriptedTarget("lib", [], kind="library"), ScriptedTarget("B", [])]
    run = comparison(targets, SCENARIOS, rounds=3)
    asyncio.run(run.run())
    assert run.prompts.made == len(run._prompt_lengths())


def test_every_scenario_notes_its_metrics() -> None:
    targets = [
        ScriptedTarget("P", [], kind="own"),
        ScriptedTarget("lib", [], kind="library"),
        ScriptedTarget("peer", [], speed=50),
    ]
    run = comparison(targets, SCENARIOS, rounds=2)
    asyncio.run(run.run())
    assert set(run.values) == {metric.key for metric in run.metrics}
    assert run.values[DECODE_350.key]["P"] == pytest.approx([100.0] * 2)
    assert run.values[DECODE_350.key]["peer"] == pytest.approx([50.0] * 2)
    assert run.values[TTFT_350.key]["P"] == pytest.approx([0.1] * 2)
    assert run.values[BATCH_16.key]["P"][0] == pytest.approx(800 / 0.59, rel=0.05)
    assert run.values[BUSY_SHARE.key]["P"] == pytest.approx([1.0] * 2)
    assert set(run.values[TOKEN_COST.key]) == {"P", "lib"}
    assert set(run.values[START.key]) == {"P", "peer"}


def test_a_failing_engine_is_named_and_the_others_go_on() -> None:
    history: list[str] = []
    good, bad = ScriptedTarget("good", history, kind="own"), ScriptedTarget("bad", history, fails_on=5)
    run = comparison([bad, good], SCENARIOS[:1])
    asyncio.run(run.run())
    assert run.failures == {"bad": "out of order"}
    assert len(run.values[DECODE_350.key]["good"]) == 3
    assert len(run.values[DECODE_350.key]["bad"]) == 1
    assert history.count("bad 350/128") == 2
    assert not bad.running


def test_an_engine_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mute(ScriptedTarget):
        async def generate(self, prompt: Sequence[int], max_tokens: int) -> Timeline:
            await asyncio.sleep(60)
            raise AssertionError

    monkeypatch.setattr(compare_module, "ATTEMPT_SECONDS", 0.05)
    mute, good = Mute("mute", []), ScriptedTarget("good", [], kind="own")
    run = comparison([mute, good], SCENARIOS[:1])
    asyncio.run(run.run())
    assert run.failures == {"mute": "no answer within 0 s"}
    assert len(run.values[DECODE_350.key]["good"]) == 3


def test_all_engines_are_stopped_when_the_run_is_interrupted() -> None:
    class Interrupting(ScriptedTarget):
        async def generate(self, prompt: Sequence[int], max_tokens: int) -> Timeline:
            raise KeyboardInterrupt

    first, second = ScriptedTarget("A", []), Interrupting("B", [])
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(comparison([first, second], SCENARIOS[:1]).run())
    assert not first.running and not second.running


ENGINES = Engines(own="P", peers=("base", "fast"), baseline="base", library="lib")


def test_goals_are_judged_against_the_engine_they_name() -> None:
    measurements = {
        DECODE_350.key: {"P": [300.0, 310.0], "base": [100.0, 110.0], "fast": [290.0, 320.0]},
        TTFT_350.key: {"P": [0.2, 0.2], "base": [1.0, 1.0], "fast": [0.25, 0.25]},
        TOKEN_COST.key: {"P": [5.0], "lib": [4.8]},
        START.key: {"P": [4.5]},
    }
    verdicts = {(v.metric.key, v.engine): v for v in judge_all(measurements, ENGINES)}
    assert set(verdicts) == {
        (DECODE_350.key, "base"),
        (DECODE_350.key, "fast"),
        (TTFT_350.key, "fast"),
        (TOKEN_COST.key, "lib"),
        (START.key, "P"),
    }
    assert not verdicts[DECODE_350.key, "base"].met  # 305 / 105 = 2.9
    assert verdicts[DECODE_350.key, "fast"].met
    assert not verdicts[TTFT_350.key, "fast"].met  # 0.8
    assert verdicts[TOKEN_COST.key, "lib"].met
    assert not verdicts[START.key, "P"].met


def test_goals_without_their_engine_are_not_judged() -> None:
    assert judge_all({DECODE_350.key: {"P": [300.0]}}, Engines("P", ())) == []
    assert judge_all({DECODE_350.key: {"fast": [300.0]}}, ENGINES) == []


def test_table_has_medians_quartiles_and_ratios_of_each_engine() -> None:
    measurements = {TTFT_350.key: {"P": [0.1, 0.2, 0.3], "fast": [0.2, 0.4, 0.6]}, START.key: {"P": [3.0]}}
    table = comparison_table([TTFT_350, START], measurements, ENGINES)
    title = "time to first token, 350 in [s]"
    assert list(table.rows[0]) == [title, "P", 0.2, pytest.approx(0.15), pytest.approx(0.25), None, None, None]
    assert list(table.rows[1]) == [title, "fast", 0.4, pytest.approx(0.3), 0.5, 0.5, 0.5, 0.5]
    assert list(table.rows[2]) == ["start to first token [s]", "P", 3.0, None, None, None, None, None]  # one round


def test_targets_are_told_with_the_engine_that_they_are_held_against() -> None:
    measurements = {TTFT_350.key: {"P": [0.2, 0.2], "fast": [0.4, 0.4]}, START.key: {"P": [4.5]}}
    rows = verdicts_table(judge_all(measurements, ENGINES)).rows
    assert [list(row) for row in rows] == [
        ["time to first token, 350 in [s]", "≤ 0.75 x the best peer", "fast", 0.5, 0.5, 0.5, "yes"],
        ["start to first token [s]", "≤ 4 s", "P", 4.5, None, None, "NO"],
    ]


def test_report_warns_of_failed_engines_and_draws_bars_with_quartiles_and_limits() -> None:
    run = comparison([ScriptedTarget("P", [], kind="own"), ScriptedTarget("bad", [], fails_on=5)], SCENARIOS[:1])
    asyncio.run(run.run())
    report = peers_report(run, "paceline bench peers", {"model": "tiny"}, ["vllm-cpu: not given"])
    assert report.warnings == ["bad failed and took no further part: out of order"]
    assert report.sections[0].text == ["Not measured: vllm-cpu: not given."]
    plots = {plot.title: plot for plot in report.sections[0].plots}
    speed = {series.name: series for series in plots["Decode speed, one stream"].series}
    assert list(speed["P"].y) == pytest.approx([100.0]) and list(speed["P"].low or ()) == pytest.approx([100.0])
    start = {series.name: series for series in plots["Start to first token"].series}
    assert start["target of Paceline"].limit and list(start["target of Paceline"].y) == [4.0]
    assert set(report.data["measurements"]) == set(run.values)


def test_report_is_json_with_every_value() -> None:
    measurements = {START.key: {"P": [3.0, 5.0]}}
    report = json.loads(json.dumps([measurements_json(measurements), verdicts_json(judge_all(measurements, ENGINES))]))
    assert report[0][START.key]["P"] == {"median": 4.0, "q1": 3.5, "q3": 4.5, "values": [3.0, 5.0]}
    assert report[1][0]["met"] is True
