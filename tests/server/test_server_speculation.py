"""Speculation as clients see it: wishes of a request, and the report in ``usage``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from scripted_server import Script

from paceline.sampling.speculative import Speculative
from paceline.server.metric_table import TABLE

MESSAGES: Any = [{"role": "user", "content": "hi"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
REPORT = {"speculative": {"report": True}}

#: "Hello, world" and the end of sequence in deltas of 1, 4, 4 and 4 tokens.
EXPECTED = {
    "steps": 3,
    "prefill_steps": 1,
    "drafted": 12,
    "accepted": 9,
    "acceptance_length": 4.0,
    "histogram": [0, 0, 0, 0, 3],
    "by_drafter": {"suffix": {"drafted": 12, "accepted": 9}},
    "time_s": 0.75,
    "estimated_time_without_s": 1.5,
}


@pytest.fixture
def drafting(live):
    """The shared server, with a script that drafts."""
    live.engine.script = Script(chunk=4, drafter="suffix")
    return live


@pytest.fixture
def client(drafting):
    with openai.OpenAI(base_url=drafting.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def chunks(server, path: str, **body: Any) -> list[Any]:
    response = server.post(path, {**body, "stream": True})
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def problem(response) -> dict[str, Any]:
    assert response.status_code == 400, response.text
    return response.json()["error"]


def test_the_report_comes_through_the_openai_client(client):
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, extra_body=REPORT)
    assert answer.choices[0].message.content == "Hello, world"
    assert answer.usage.speculation == EXPECTED
    assert answer.usage.completion_tokens == 13
    completion = client.completions.create(model="tiny", prompt="hi", max_tokens=99, extra_body=REPORT)
    assert completion.usage.speculation == EXPECTED


def test_a_streamed_report_comes_in_the_last_chunk_even_when_usage_was_not_asked_for(client):
    parts = list(client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True, extra_body=REPORT))
    *others, last = parts
    assert last.choices == []
    assert last.usage.speculation == EXPECTED
    assert all(part.usage is None and part.choices for part in others)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_stream_without_a_report_is_as_before(drafting, path):
    prompt = {"messages": MESSAGES} if path == CHAT else {"prompt": "hi"}
    plain = chunks(drafting, path, **prompt)
    assert all("usage" not in chunk for chunk in plain)
    other = chunks(drafting, path, **prompt, speculative={"enabled": False}, stream_options={"include_usage": True})
    assert "speculation" not in other[-1]["usage"]


def test_usage_in_every_chunk_has_the_report_so_far(drafting):
    options = {"include_usage": True, "continuous_usage_stats": True}
    parts = chunks(drafting, CHAT, messages=MESSAGES, stream_options=options, **REPORT)
    assert [part["usage"]["speculation"]["steps"] for part in parts] == [0, 1, 2, 3, 3]


def test_the_report_sums_over_prompts_and_sequences(drafting):
    body = {"prompt": ["a", "b"], "n": 2, "max_tokens": 99, **REPORT}
    report = drafting.post(COMPLETIONS, body).json()["usage"]["speculation"]
    assert (report["steps"], report["prefill_steps"], report["histogram"]) == (12, 4, [0, 0, 0, 0, 12])
    assert report["by_drafter"] == {"suffix": {"drafted": 48, "accepted": 36}}
    (*_, last) = chunks(drafting, COMPLETIONS, **body)
    assert last["usage"]["speculation"] == report


def test_a_stop_string_ends_the_report_with_the_text(drafting):
    usage = drafting.post(COMPLETIONS, {"prompt": "hi", "stop": "lo", **REPORT}).json()["usage"]
    report = usage["speculation"]
    assert usage["completion_tokens"] == 5 == 1 + 4 * report["steps"]
    assert (report["histogram"], report["drafted"], report["accepted"]) == ([0, 0, 0, 0, 1], 4, 3)


def test_an_engine_that_does_not_draft_is_reported_as_such(live):
    report = live.post(CHAT, {"messages": MESSAGES, **REPORT}).json()["usage"]["speculation"]
    assert (report["steps"], report["acceptance_length"], report["drafted"], report["by_drafter"]) == (12, 1.0, 0, {})


@pytest.mark.parametrize(
    ("given", "wish"),
    [
        ({}, Speculative()),
        ({"enabled": False}, Speculative(enabled=False)),
        ({"max_draft": 0, "drafters": ["ngram"]}, Speculative(max_draft=0, drafters=("ngram",))),
        ({"drafters": []}, Speculative(drafters=())),
        ({"enabled": None, "max_draft": None, "drafters": None, "report": None}, Speculative()),
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_wishes_reach_the_engine(live, path, given, wish):
    prompt = {"messages": MESSAGES} if path == CHAT else {"prompt": "hi"}
    assert live.post(path, {**prompt, "speculative": given}).status_code == 200
    assert live.engine.requests[-1].params.speculative == wish


def test_no_wish_means_as_the_engine_is_configured(live):
    live.post(CHAT, {"messages": MESSAGES, "speculative": None})
    assert live.engine.requests[-1].params.speculative is None


@pytest.mark.parametrize(
    ("given", "message", "param"),
    [
        ({"enable": True}, "Unknown parameter: 'speculative.enable'.", "speculative.enable"),
        ({"colour": None}, "Unknown parameter: 'speculative.colour'.", "speculative.colour"),
        ({"enabled": "yes"}, "Invalid value for 'speculative.enabled'", "speculative.enabled"),
        ({"max_draft": 64}, "speculative.max_draft must be between 0 and 63, got 64", "speculative"),
        ({"max_draft": 1.5}, "Invalid value for 'speculative.max_draft'", "speculative.max_draft"),
        ({"drafters": "suffix"}, "Invalid value for 'speculative.drafters'", "speculative.drafters"),
        (
            {"drafters": ["suffix", "eagle3"]},
            "speculative.drafters: this engine has no drafter 'eagle3'; it has: suffix, ngram",
            "speculative.drafters",
        ),
        ([], "Invalid value for 'speculative'", "speculative"),
        (True, "Invalid value for 'speculative'", "speculative"),
    ],
)
def test_other_wishes_are_refused_by_name(live, given, message, param):
    error = problem(live.post(CHAT, {"messages": MESSAGES, "speculative": given}))
    assert error["message"].startswith(message)
    assert error["param"] == param
    assert not live.engine.requests


def test_a_drafter_cannot_be_chosen_where_speculation_is_off(serve):
    server = serve()
    server.engine.ready.drafters = []
    error = problem(server.post(CHAT, {"messages": MESSAGES, "speculative": {"drafters": ["suffix"]}}))
    assert "no drafter 'suffix'; it has none: speculation is off" in error["message"]
    assert server.post(CHAT, {"messages": MESSAGES, "speculative": {"enabled": True}}).status_code == 200


@pytest.mark.parametrize(
    "given", [{"guided_choice": ["no", "yes", "no"]}, {"structured_outputs": {"choice": ["no", "yes", "no"]}}]
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_choices_reach_the_engine_in_both_spellings(live, path, given):
    prompt = {"messages": MESSAGES} if path == CHAT else {"prompt": "hi"}
    assert live.post(path, {**prompt, **given}).status_code == 200
    params = live.engine.requests[-1].params
    assert (params.choice, params.choice_ids) == (("no", "yes", "no"), (tuple(b"no"), tuple(b"yes")))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"guided_choice": []}, "Invalid value for 'guided_choice'"),
        ({"guided_choice": "yes"}, "Invalid value for 'guided_choice'"),
        ({"guided_choice": ["yes", ""]}, "choice must not contain an empty string"),
        ({"guided_choice": ["x"] * 1025}, "Invalid value for 'guided_choice'"),
        ({"structured_outputs": {"choice": []}}, "Invalid value for 'structured_outputs.choice'"),
        ({"structured_outputs": {"json": {}}}, "'structured_outputs.json' is not supported"),
        ({"structured_outputs": {"regex": "a+", "choice": ["a"]}}, "'structured_outputs.regex' is not supported"),
        ({"structured_outputs": {"json_object": True}}, "'structured_outputs.json_object' is not supported"),
        ({"structured_outputs": {"choices": ["a"]}}, "Unknown parameter: 'structured_outputs.choices'."),
        ({"structured_outputs": {"choices": None}}, "Unknown parameter: 'structured_outputs.choices'."),
        ({"structured_outputs": ["a"]}, "Invalid value for 'structured_outputs'"),
        (
            {"guided_choice": ["a"], "structured_outputs": {"choice": ["a"]}},
            "guided_choice and structured_outputs.choice",
        ),
        ({"guided_json": {}}, "'guided_json' is not supported"),
    ],
)
def test_other_structures_are_refused_by_name(live, given, message):
    error = problem(live.post(CHAT, {"messages": MESSAGES, **given}))
    assert error["message"].startswith(message), error["message"]
    assert not live.engine.requests


def test_structures_that_change_nothing_are_accepted(live):
    harmless = {"choice": None, "json": None, "json_object": False, "disable_any_whitespace": False}
    for given in (None, {}, harmless):
        assert live.post(CHAT, {"messages": MESSAGES, "structured_outputs": given}).status_code == 200
        assert live.engine.requests[-1].params.choice == ()


def test_the_openapi_document_describes_the_wishes(live):
    schemas = live.get("/openapi.json").json()["components"]["schemas"]
    assert set(schemas["SpeculativeBody"]["properties"]) == {"enabled", "max_draft", "drafters", "report"}


def test_the_users_page_explains_every_field_and_metric():
    page = (Path(__file__).parents[2] / "docs" / "speculation.md").read_text()
    assert [name for name in EXPECTED if f"| `{name}` |" not in page] == []
    names = [row.name for row in TABLE if "draft" in row.name or "accept" in row.name]
    assert [name for name in names if f"`{name}" not in page] == []
