"""An engine here and a server there answer the same; servers that lack something say so."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_http import scripted_http

from paceline.bench.client import ask
from paceline.bench.endpoint import EndpointError, endpoint_of
from paceline.bench.processes import ProcessTree
from paceline.bench.quality import answerers
from paceline.bench.quality.answerers import CannotAnswerError, EngineAnswerer, ServerAnswerer
from paceline.bench.quality.built_in import built_in_tasks

OPTIONS = (" A", " B", " C", " D")


@pytest.fixture(scope="module")
def served(tiny_writer: Path) -> Iterator[str]:
    """The URL of a real server on the tiny model."""
    import asyncio
    import time

    from paceline.bench.peers.targets import free_port

    port = free_port()
    command = [sys.executable, "-m", "paceline", "serve", str(tiny_writer), "--port", str(port), "--threads", "1"]
    tree = ProcessTree(command)
    try:
        end = time.monotonic() + 60
        while asyncio.run(ask("127.0.0.1", port, "/ready")) != 200:
            assert time.monotonic() < end and tree.process.poll() is None, tree.tail()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        tree.stop()


@pytest.fixture(scope="module")
def engine(tiny_writer: Path) -> Iterator[EngineAnswerer]:
    answerer = EngineAnswerer(str(tiny_writer), {"threads": 1})
    yield answerer
    answerer.close()


def test_a_server_answers_as_the_engine_in_it(served, engine):
    server = ServerAnswerer(endpoint_of(served), None, {}, 4)
    assert server.description == f"tiny at {served}" and engine.description.startswith("tiny on backend")
    sums, _, pick, pick_choice = built_in_tasks(4, seed=0)
    prompts = [question.prompt for question in pick.questions]
    texts = [question.prompt for question in sums.questions]
    assert server.write(texts, 8, ("\n",)) == engine.write(texts, 8, ("\n",))
    chosen = engine.choose(prompts, pick_choice.options)
    assert server.choose(prompts, pick_choice.options) == chosen and set(chosen) <= set(OPTIONS)
    weights = engine.weigh(prompts, pick.options)
    for ours, theirs in zip(server.weigh(prompts, pick.options), weights, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-9)
    server.close()


def test_options_among_the_likeliest_weigh_as_when_they_are_scored(engine, monkeypatch):
    prompts = ["Which one is it?", "A. one\nB. two\nWhich one is two?"]
    options = ("a", "b", " ", "?")  # single tokens; in a vocabulary of 160 all are among as many alternatives
    with monkeypatch.context() as patch:
        patch.setattr(answerers, "TOP", 100)
        read = engine.weigh(prompts, options)
        patch.setattr(answerers, "TOP", 1)
        scored = engine.weigh(prompts, options)
    assert read == scored


def test_an_option_of_several_tokens_weighs_their_sum(engine):
    ((both,), (first,)) = (engine.weigh(["xyz"], (option,))[0] for option in ("ab", "a"))
    (second,) = engine.weigh(["xyza"], ("b",))[0]
    assert both == pytest.approx(first + second, abs=1e-6)


def completions(*texts: str, **more: object):
    """A server that answers each completion with the next text."""
    left = list(texts)

    def answer(method, path, body):
        if path == "/v1/models":
            return 200, {"data": [{"id": "m"}]}
        return 200, {"choices": [{"text": left.pop(0), **more}]}

    return answer


def test_a_server_that_ignores_or_refuses_a_grammar_cannot_choose():
    with scripted_http(completions("I think B")) as url, pytest.raises(CannotAnswerError, match="ignores"):
        ServerAnswerer(endpoint_of(url), None, {}, 1).choose(["p"], OPTIONS)
    with scripted_http(lambda *_: (400, {"error": {"message": "unknown field"}})) as url:
        server = ServerAnswerer(endpoint_of(url), "m", {}, 1)
        with pytest.raises(CannotAnswerError, match=r"refuses.*unknown field"):
            server.choose(["p"], OPTIONS)
        with pytest.raises(EndpointError, match="unknown field"):  # only a grammar may be lacking
            server.write(["p"], 1, ())


def test_a_server_without_echoed_log_probabilities_cannot_weigh():
    with scripted_http(completions("x", "x")) as url, pytest.raises(CannotAnswerError, match="echo"):
        ServerAnswerer(endpoint_of(url), None, {}, 1).weigh(["p"], OPTIONS)


def test_options_are_read_from_the_likeliest_tokens_or_else_echoed():
    asked = []

    def answer(method, path, body):
        asked.append(body)
        if body.get("echo"):
            # prompt "ab" and option " C": the option's tokens begin at 2 and 3, the new token at 4
            values = {"text_offset": [0, 2, 3, 4], "token_logprobs": [None, -1.0, -0.25, -7.0]}
            return 200, {"choices": [{"text": body["prompt"] + "!", "logprobs": values}]}
        tops = {" A": -0.5, " B": -1.5} if body["prompt"] == "likely" else {" A": -0.5}
        return 200, {"choices": [{"text": "x", "logprobs": {"top_logprobs": [tops]}}]}

    with scripted_http(answer) as url:
        server = ServerAnswerer(endpoint_of(url), "m", {"speculative": {"enabled": False}}, 1)
        assert server.weigh(["likely"], (" A", " B")) == [(-0.5, -1.5)]
        assert server.weigh(["ab"], (" C",)) == [(-1.25,)]
    assert all(body["speculative"] == {"enabled": False} and body["model"] == "m" for body in asked)


def test_an_answer_without_a_text_is_an_error():
    with scripted_http(lambda *_: (200, {"choices": []})) as url, pytest.raises(EndpointError, match="without a text"):
        ServerAnswerer(endpoint_of(url), "m", {}, 1).write(["p"], 1, ())
