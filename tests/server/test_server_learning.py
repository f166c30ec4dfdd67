"""``--learn`` at the server: what is recorded of whose requests, versions by hand and back, refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_server import LiveServer

from paceline.learning.settings import LearnOptions
from paceline.learning.versions import Judgement, VersionCard
from paceline.server.learning import Learning

MESSAGES: Any = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"


@pytest.fixture
def learning(live: LiveServer, tmp_path: Path) -> Iterator[Learning]:
    live.engine.speculators.clear()
    found = live.context.learning = Learning(LearnOptions(folder=str(tmp_path / "learned")), live.engine)
    yield found
    live.context.learning = None
    found.recorder.close()


def texts(learning: Learning) -> list[dict[str, Any]]:
    learning.recorder.flush()
    folder = learning.recorder.store.folder
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def publish(learning: Learning, content: str = "weights", against: int | None = None) -> int:
    """A version as the trainer makes it; ``against``: better than this one."""
    versions = learning.versions
    written = versions.root.parent / "written"
    written.mkdir()
    (written / "model.safetensors").write_text(content)
    number = versions.next_number()
    figures: Any = {"texts": 40, "tokens": 900, "current": 1.5, "candidate": 2.0, "low": 0.3, "high": 0.7}
    judged = None if against is None else Judgement(against=against, confidence=0.95, better=True, **figures)
    versions.publish(written, VersionCard(number=number, made="now", judgement=judged))
    return number


def test_what_was_asked_and_answered_is_kept_unless_the_request_says_no(live: LiveServer, learning: Learning) -> None:
    body = live.post(CHAT, {"messages": MESSAGES, "max_tokens": 5}).json()
    for refused in ({"store": False}, {"store": False, "stream": True}):
        live.post(CHAT, {"messages": MESSAGES, "max_tokens": 7, **refused})
    (text,) = texts(learning)
    assert text["prompt"] == live.engine.requests[0].prompt_ids
    assert len(text["output"]) == body["usage"]["completion_tokens"]
    assert live.get("/v1/speculator").json()["texts"]["count"] == 1


def test_streams_are_kept_as_well_and_texts_of_adapters_are_not(live: LiveServer, learning: Learning) -> None:
    live.post(CHAT, {"messages": MESSAGES, "max_tokens": 5, "stream": True})
    learning.record(live.engine.requests[0], [], None)  # nothing came
    assert len(texts(learning)) == 1


def test_without_learn_nothing_is_there(live: LiveServer) -> None:
    for answer in (live.get("/v1/speculator"), live.post("/v1/speculator/rollback", {})):
        assert answer.status_code == 403 and "start it with --learn" in answer.json()["error"]["message"]


def test_a_version_is_used_and_left_again_in_one_call_each(live: LiveServer, learning: Learning) -> None:
    first, second = publish(learning), publish(learning)
    for number in (first, second):
        assert live.post("/v1/speculator/use", {"version": number}).json()["in_use"] == number
    assert live.post("/v1/speculator/rollback", {}).json()["in_use"] == first
    assert live.post("/v1/speculator/rollback", {}).json()["in_use"] == 0
    folders = [str(learning.versions.folder(number)) for number in (first, second, first)]
    assert live.engine.speculators == [*folders, None]
    last = live.post("/v1/speculator/rollback", {})
    assert last.status_code == 409 and "nothing to go back to" in last.json()["error"]["message"]


@pytest.mark.parametrize(("version", "status", "words"), [(9, 404, "there is no version 9"), ("x", 400, "version")])
def test_a_version_that_is_not_there_is_refused(
    live: LiveServer, learning: Learning, version: object, status: int, words: str
) -> None:
    answer = live.post("/v1/speculator/use", {"version": version})
    assert answer.status_code == status and words in answer.json()["error"]["message"]


def test_a_damaged_version_is_refused_and_the_one_in_use_stays(live: LiveServer, learning: Learning) -> None:
    good, bad = publish(learning), publish(learning, "damaged")
    live.post("/v1/speculator/use", {"version": good})
    answer = live.post("/v1/speculator/use", {"version": bad})
    assert answer.status_code == 400 and "it is damaged" in answer.json()["error"]["message"]
    assert live.get("/v1/speculator").json()["in_use"] == good


def test_what_the_trainer_makes_is_used_only_if_it_was_better_than_what_is_in_use(
    live: LiveServer, learning: Learning
) -> None:
    asyncio.run(learning._consider(publish(learning)))  # nobody judged it
    assert learning.current.version == 0
    better = publish(learning, against=0)
    asyncio.run(learning._consider(better))
    assert learning.current.version == better
    asyncio.run(learning._consider(publish(learning, against=0)))  # judged against one that is not in use any more
    asyncio.run(learning._consider(publish(learning, "damaged", against=better)))
    assert learning.current.version == better and len(learning.refused) == 1
