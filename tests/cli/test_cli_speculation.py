"""The flags about speculation: the same ones everywhere, checked before anything is loaded."""

from __future__ import annotations

import logging

import pytest
from typer.testing import CliRunner

from paceline.cli import app
from paceline.cli.speculation import speculation_options
from paceline.errors import InvalidRequestError
from paceline.speculation.options import DRAFTER_NAMES, SpeculationOptions

NGRAM = '{"method": "ngram", "num_speculative_tokens": 3}'


def test_no_flag_means_the_defaults() -> None:
    assert speculation_options() == SpeculationOptions()


def test_flags_reach_the_options() -> None:
    options = speculation_options("suffix, model,suffix", 4, "tiny", "coupled")
    assert options == SpeculationOptions(
        speculate=("suffix", "model"), max_draft=4, draft_model="tiny", sampling="coupled"
    )
    assert speculation_options("OFF").speculate == "off"


def test_flags_and_configuration_complete_each_other() -> None:
    options = speculation_options(max_draft=3, sampling="coupled", speculative_config=NGRAM)
    assert options == SpeculationOptions(speculate=("ngram",), max_draft=3, sampling="coupled")
    assert speculation_options(draft_model="x", speculative_config='{"method": "draft_model"}').draft_model == "x"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"speculate": "sufix"}, "--speculate must be 'auto', 'off' or names of drafters"),
        ({"speculate": "auto,ngram"}, "--speculate: 'auto' stands alone"),
        ({"speculate": ""}, "--speculate must be .*, got none"),
        ({"speculate": "model"}, "--draft-model: the drafter 'model' needs"),
        ({"speculate": "suffix", "draft_model": "x"}, "--draft-model 'x' is for the drafter 'model'"),
        ({"max_draft": 64}, "--max-draft must be between 0 and 63, got 64"),
        ({"sampling": "loose"}, "--sampling must be one of exact, coupled"),
        ({"speculative_config": "{"}, "speculative_config: not valid JSON"),
        (
            {"speculative_config": '{"method": "ngram", "num_speculative_tokens": 64}'},
            "num_speculative_tokens in --speculative-config must be between 0 and 63, got 64",
        ),
        (
            {"max_draft": 4, "speculative_config": NGRAM},
            "--max-draft 4 contradicts num_speculative_tokens in --speculative-config, which means --max-draft 3",
        ),
        (
            {"speculate": "off", "speculative_config": NGRAM},
            "--speculate off contradicts method in --speculative-config, which means --speculate ngram",
        ),
        (
            {"draft_model": "a", "speculative_config": '{"model": "b"}'},
            "--draft-model a contradicts model in --speculative-config",
        ),
    ],
)
def test_errors_name_the_flag_or_the_key(flags, message) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        speculation_options(**flags)


def test_what_has_no_effect_is_logged(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        speculation_options(speculative_config='{"method": "suffix", "disable_by_batch_size": 8}')
    assert "--speculative-config: disable_by_batch_size has no effect: " in caplog.text


@pytest.mark.parametrize("command", [["serve"], ["chat"], ["run", "none.jsonl", "-o", "out.jsonl"]])
def test_every_command_that_starts_an_engine_checks_them_first(command, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("paceline.llm.LLM", "paceline.server.launch.serve", "paceline.cli.batch.run_batch"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("the model is loaded"))
    result = CliRunner().invoke(app, [*command, "--speculate", "magic"])
    assert result.exit_code in (1, 2)
    assert "Error: --speculate must be 'auto', 'off' or names of drafters" in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["serve", "chat", "run"])
def test_help_names_every_drafter(command) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    assert all(name in shown for name in DRAFTER_NAMES)
    assert all(flag in shown for flag in ("--speculate", "--max-draft", "--draft-model", "--sampling"))


def test_flags_reach_the_engine(monkeypatch, tmp_path) -> None:
    seen = []

    async def run_batch(file, output, options, *_):
        seen.append(options.speculation)
        return 0

    monkeypatch.setattr("paceline.cli.batch.run_batch", run_batch)
    monkeypatch.setattr("paceline.server.launch.serve", lambda config, options, sock: seen.append(options.speculation))
    for command in (["run", "in.jsonl", "-o", "out.jsonl"], ["serve", "--port", "0"]):
        result = CliRunner().invoke(app, [*command, "--speculate", "ngram", "--max-draft", "2"])
        assert result.exit_code == 0, result.output
    assert seen == [SpeculationOptions(speculate=("ngram",), max_draft=2)] * 2
