"""``paceline chat``: turns, commands, interruptions."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from paceline.cli.chat import Conversation
from paceline.engine.output import SequenceOutput
from paceline.errors import InvalidRequestError
from paceline.sampling.params import SamplingParams


class ScriptedLLM:
    """Answers with the words of ``script``; a word may be an exception."""

    info = SimpleNamespace(model="scripted")

    def __init__(self, *script) -> None:
        self.script = list(script)
        self.asked: list[list[dict]] = []
        self.closed = 0

    def chat_stream(self, messages, params, *, adapter=None):
        self.asked.append([dict(message) for message in messages])
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer

        def stream():
            try:
                for word in answer:
                    if isinstance(word, BaseException):
                        raise word
                    yield SequenceOutput(0, text=word, token_ids=[1])
            finally:
                self.closed += 1

        return stream()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def talk(llm: ScriptedLLM, typed: str, system: str | None = None) -> str:
    target = io.StringIO()
    Conversation(llm, SamplingParams(), system).run(io.StringIO(typed), target)
    return target.getvalue()


def test_each_line_of_a_pipe_is_a_turn_and_only_answers_are_printed(capsys) -> None:
    llm = ScriptedLLM(["Hello", " Ann"], ["Ann."])
    assert talk(llm, "I am Ann\n\nWho am I?") == "Hello Ann\nAnn.\n"
    assert llm.asked[1] == [
        {"role": "user", "content": "I am Ann"},
        {"role": "assistant", "content": "Hello Ann"},
        {"role": "user", "content": "Who am I?"},
    ]
    assert capsys.readouterr().err == ""


def test_reset_forgets_the_turns_but_not_the_system_prompt() -> None:
    llm = ScriptedLLM(["a"], ["b"])
    talk(llm, "one\n/reset\ntwo\n", system="Be brief.")
    system = {"role": "system", "content": "Be brief."}
    assert llm.asked == [[system, {"role": "user", "content": "one"}], [system, {"role": "user", "content": "two"}]]


def test_exit_leaves_and_unknown_commands_are_named(capsys) -> None:
    assert talk(ScriptedLLM(), "/what\n/exit\nnever asked\n") == ""
    assert "no command /what" in capsys.readouterr().err


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said() -> None:
    llm = ScriptedLLM(["Once", " upon", KeyboardInterrupt()], ["Yes."])
    assert talk(llm, "A story\nGo on?\n") == "Once upon\nYes.\n"
    assert llm.asked[1][1] == {"role": "assistant", "content": "Once upon"}
    assert llm.closed == 2


def test_a_question_that_does_not_fit_is_refused_and_forgotten(capsys) -> None:
    llm = ScriptedLLM(["a"], InvalidRequestError("the prompt is too long"), ["b"])
    assert talk(llm, "one\ntwo\nthree\n") == "a\nb\n"
    assert "too long. /reset starts anew" in capsys.readouterr().err
    assert [message["content"] for message in llm.asked[2]] == ["one", "a", "three"]


def test_a_model_that_cannot_chat_at_all_ends_the_program() -> None:
    with pytest.raises(InvalidRequestError, match="no chat template"):
        talk(ScriptedLLM(InvalidRequestError("no chat template")), "one\ntwo\n")


def test_a_terminal_is_greeted_and_told_the_speed(monkeypatch, capsys) -> None:
    typed = iter(["hi", KeyboardInterrupt(), EOFError()])

    def type_next(prompt: str) -> str:
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", type_next)
    target = io.StringIO()
    Conversation(ScriptedLLM(["Hello"]), SamplingParams()).run(Terminal(), target)
    assert target.getvalue() == "Hello\n"
    shown = capsys.readouterr().err
    assert "scripted" in shown and "/reset" in shown and "1 tokens," in shown
