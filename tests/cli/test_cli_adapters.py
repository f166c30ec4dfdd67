"""The flags about adapters, and who answers in a chat."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from paceline.cli import app
from paceline.cli.adapters import adapter_folders, cache_bytes
from paceline.cli.chat import Conversation
from paceline.engine.output import SequenceOutput
from paceline.errors import AdapterError
from paceline.sampling.params import SamplingParams


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two adapters, a folder that is none, and a file."""
    for name in ("sql", "ner", "notes"):
        (tmp_path / name).mkdir()
    for name in ("sql", "ner"):
        (tmp_path / name / "adapter_config.json").write_text("{}")
    (tmp_path / "README").write_text("")
    return tmp_path


def test_names_and_folders_come_from_both_flags(folder) -> None:
    found = adapter_folders(["a=/x/y=z", " b = /q"], folder)
    assert found == {"a": "/x/y=z", "b": "/q", "ner": str(folder / "ner"), "sql": str(folder / "sql")}
    assert adapter_folders(None, None) == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["/x/y"], "must be NAME=FOLDER, got '/x/y'"),
        (["a="], "must be NAME=FOLDER"),
        (["=x"], "printable characters"),
        (["a=x", "a=y"], "'a' is taken by the adapter in x"),
        (["sql=x"], "--adapter-dir: the name 'sql' is taken"),
        (["base=x"], "'base' is a name of the base model"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(given, words, folder) -> None:
    with pytest.raises(AdapterError, match=words):
        adapter_folders(given, folder, ["base"])


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(AdapterError, match="cannot look for adapters in /nowhere"):
        adapter_folders(None, Path("/nowhere"))


def test_the_cache_is_given_in_mib() -> None:
    assert (cache_bytes(None), cache_bytes(0), cache_bytes(3)) == (None, 0, 3 * 2**20)


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["chat"], ["run", "in.jsonl", "-o", "out.jsonl"]])
def test_a_bad_flag_ends_every_command_before_anything_is_loaded(command) -> None:
    result = CliRunner().invoke(app, [*command, "--adapter", "oops"])
    assert result.exit_code in (1, 2) and "--adapter must be NAME=FOLDER, got 'oops'" in result.output


def test_runtime_loading_needs_a_folder_to_load_from() -> None:
    result = CliRunner().invoke(app, ["serve", "--port", "0", "--allow-runtime-adapters"])
    assert result.exit_code == 1 and "needs --adapter-dir" in result.output


def test_serve_hands_adapters_to_the_engine_and_the_folder_to_the_server(folder, monkeypatch) -> None:
    seen = {}
    monkeypatch.setattr("paceline.server.launch.serve", lambda config, options, sock: seen.update(c=config, o=options))
    flags = ["serve", "--port", "0", "--adapter", "a=/x", "--adapter-dir", str(folder), "--max-adapters", "3"]
    assert CliRunner().invoke(app, flags).exit_code == 0
    assert list(seen["o"].adapters) == ["a", "ner", "sql"] and seen["o"].max_adapters == 3
    assert seen["c"].adapter_dir is None
    assert CliRunner().invoke(app, [*flags, "--allow-runtime-adapters"]).exit_code == 0
    assert seen["c"].adapter_dir == folder


class TwoVoices:
    """Answers with the name of whoever is asked."""

    info = SimpleNamespace(model="base")
    adapters = ("sql", "ner")

    def chat_stream(self, messages, params, *, adapter=None):
        def stream():
            yield SequenceOutput(0, text=adapter or "base", token_ids=[1])

        return stream()


def test_a_chat_changes_its_adapter_and_goes_on(capsys) -> None:
    target = io.StringIO()
    typed = "one\n/adapter sql\ntwo\n/adapter nope\nthree\n/adapter\nfour\n"
    conversation = Conversation(TwoVoices(), SamplingParams(), adapter="ner")
    conversation.run(io.StringIO(typed), target)
    assert target.getvalue() == "ner\nsql\nsql\nbase\n"
    assert len(conversation.messages) == 8
    assert "no adapter 'nope'; there are: sql, ner" in capsys.readouterr().err
