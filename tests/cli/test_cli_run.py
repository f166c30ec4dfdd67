"""``paceline run``: what goes in comes out, once, whatever happened to earlier runs."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paceline.cli import app
from paceline.cli.batch import run_batch
from paceline.cli.batch_file import BatchFileError, OutputFile
from paceline.engine.options import EngineOptions
from paceline.errors import AdapterError, EngineDeadError
from tiny_tokenizer import save_tiny_tokenizer

FAULTS = Path(__file__).parent.parent / "faults"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer; the engine is a fake and reads nothing of it."""
    folder = tmp_path_factory.mktemp("model")
    save_tiny_tokenizer(folder)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def batch(model, tmp_path, monkeypatch):
    """Runs a batch of the given lines; gives the number of failures."""
    source = Path(__file__).parent.parent.parent / "src"
    inherited = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(FAULTS), str(source), inherited])))

    def run(lines: list, **options) -> int:
        file = tmp_path / "in.jsonl"
        file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        engine = EngineOptions(model=str(model), adapters=options.pop("adapters", {}))
        work = run_batch(file, tmp_path / "out.jsonl", engine, factory="fake_engine:build", **options)
        return asyncio.run(asyncio.wait_for(work, 60))

    return run


@pytest.fixture
def output(tmp_path):
    def read() -> list[dict]:
        return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]

    return read


def completion(custom_id: str, **body) -> dict:
    body = {"prompt": "in the end", "max_tokens": 5, "seed": 1, **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}


def chat(custom_id: str, **body) -> dict:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "seed": 1, **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def test_every_request_is_answered_in_the_form_of_its_endpoint(batch, output) -> None:
    assert batch([completion("a", n=2), chat("b"), *(completion(f"c{i}") for i in range(20))]) == 0
    answers = {line["custom_id"]: line for line in output()}
    assert len(answers) == len(output()) == 22
    for line in answers.values():
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        assert line["id"] == f"batch_req_{line['response']['request_id']}"
    assert len(answers["a"]["response"]["body"]["choices"]) == 2
    assert answers["a"]["response"]["body"]["usage"]["completion_tokens"] == 10
    assert answers["b"]["response"]["body"]["choices"][0]["message"]["role"] == "assistant"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 2: not valid JSON"),
        ("[1]", "line 2: not a JSON object"),
        ({"method": "POST"}, "line 2: custom_id must be"),
        ({**completion("x"), "method": "GET"}, "line 2: method must be 'POST', got 'GET'"),
        ({**completion("x"), "url": "/v1/embeddings"}, "line 2: url must be one of"),
        ({**completion("x"), "body": 3}, "line 2: body must be a JSON object"),
        ({**completion("x"), "extra": 1}, "line 2: unknown field 'extra'"),
        (completion("x", stream=True), "line 2: body.stream must not be true"),
        (completion("x", temprature=1), "line 2: Unknown parameter: 'temprature'"),
        (completion("x", temperature=-1), "line 2: temperature must be"),
        (completion("x", speculative={"drafters": ["model"]}), "line 2: speculative.drafters: this engine has no"),
        (completion("x", speculative={"draft": 1}), "line 2: Unknown parameter: 'speculative.draft'"),
        (completion("x", model="other"), "line 2: The model 'other' does not exist"),
        (completion("x", max_tokens=5000), "line 2: The model's context length is 4096"),
    ],
)
def test_a_bad_line_is_reported_with_its_number_and_the_others_are_answered(line, message, batch, output) -> None:
    assert batch([completion("a"), line, completion("b")]) == 1
    answers = {answer["custom_id"]: answer for answer in output()}
    assert answers["a"]["error"] is answers["b"]["error"] is None
    (bad,) = (answer for answer in output() if answer["error"])
    assert bad["error"]["message"].startswith(message)
    assert bad["error"]["line"] == 2
    assert bad["response"]["status_code"] in (400, 404)
    assert bad["response"]["body"]["error"]["message"] in bad["error"]["message"]


def test_a_request_may_have_a_report_about_speculation(batch, output) -> None:
    assert batch([completion("a", speculative={"report": True})]) == 0
    (answer,) = output()
    report = answer["response"]["body"]["usage"]["speculation"]
    assert (report["steps"], report["prefill_steps"], report["histogram"]) == (2, 1, [0, 1, 0, 1])
    assert report["by_drafter"] == {"suffix": {"drafted": 6, "accepted": 2}}


def test_other_models_names_are_accepted_on_request(batch) -> None:
    assert batch([completion("a", model="gpt-4o")], any_model=True) == 0


def test_a_second_run_skips_what_is_answered_and_tries_failures_again(batch, output, tmp_path) -> None:
    assert batch([completion("a"), completion("b", temperature=-1)]) == 1
    first = {line["custom_id"]: line for line in output()}
    assert batch([completion("a"), completion("b"), completion("c")]) == 0
    second = {line["custom_id"]: line for line in output()}
    assert second["a"] == first["a"]
    assert sorted(line["custom_id"] for line in output()) == ["a", "b", "c"]
    before = (tmp_path / "out.jsonl").read_bytes()
    assert batch([completion("a"), completion("b"), completion("c")]) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == before


@pytest.mark.parametrize("cut", [1, 5, 20, 200])
def test_a_line_cut_in_the_middle_is_answered_again(cut, batch, output, tmp_path) -> None:
    assert batch([completion("a")]) == 0
    path = tmp_path / "out.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole.replace(b'"a"', b'"b"')[:cut])
    assert batch([completion("a"), completion("b")]) == 0
    assert [line["custom_id"] for line in output()] == ["a", "b"]
    assert path.read_bytes().startswith(whole)


def test_ids_that_occur_twice_are_refused_before_anything_runs(batch, tmp_path) -> None:
    with pytest.raises(BatchFileError, match="custom_id 'a' is on line 1 and again on 3"):
        batch([completion("a"), completion("b"), completion("a")])
    assert not (tmp_path / "out.jsonl").exists()


def test_a_file_that_is_no_output_is_not_touched(batch, tmp_path) -> None:
    path = tmp_path / "out.jsonl"
    for content in ("my notes\n", "{}\n", "x"):
        path.write_text(content)
        with pytest.raises(BatchFileError, match="line 1 is no answer of a batch"):
            batch([completion("a")])
        assert path.read_text() == content


def test_the_requests_are_not_overwritten_by_the_answers(model, tmp_path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text("")
    with pytest.raises(BatchFileError, match="choose another one"):
        asyncio.run(run_batch(file, file, EngineOptions(model=str(model))))


def test_two_runs_cannot_write_the_same_file(tmp_path) -> None:
    with OutputFile(tmp_path / "out.jsonl"), pytest.raises(BatchFileError, match="by another run"):
        OutputFile(tmp_path / "out.jsonl")
    with OutputFile(tmp_path / "out.jsonl") as again:
        assert again.finished == set()
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_full_disk_leaves_whole_lines_only(tmp_path, monkeypatch) -> None:
    with OutputFile(tmp_path / "out.jsonl") as answers:
        answers.append({"id": "batch_req_1"})
        write = os.write

        def full(descriptor: int, data: bytes) -> int:
            monkeypatch.setattr(os, "write", no_space)
            return write(descriptor, data[:7])

        def no_space(descriptor: int, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(BatchFileError, match="No space left on device; run again"):
            answers.append({"id": "batch_req_2"})
        monkeypatch.setattr(os, "write", write)
    assert (tmp_path / "out.jsonl").read_text() == '{"id":"batch_req_1"}\n'


def test_an_engine_that_is_gone_ends_the_run_and_blames_no_request(batch, output, monkeypatch) -> None:
    import paceline.server.engine_client as engine_client

    admit = engine_client.EngineClient._admit

    def die_at_third(self, request):
        if len(output()) >= 2:
            self.dead = "the engine died 3 times"
        return admit(self, request)

    monkeypatch.setattr(engine_client.EngineClient, "_admit", die_at_third)
    with pytest.raises(EngineDeadError, match="died 3 times"):
        batch([completion(f"r{i}") for i in range(9)], concurrency=1)
    assert [line["custom_id"] for line in output()] == ["r0", "r1"]
    assert all(line["error"] is None for line in output())


def test_command_reports_errors_by_its_exit_status(tmp_path) -> None:
    result = CliRunner().invoke(app, ["run", str(tmp_path / "none.jsonl"), "-o", str(tmp_path / "out.jsonl")])
    assert result.exit_code == 2
    assert "cannot read" in result.output


def test_a_requests_model_may_be_an_adapter(batch, output, tmp_path) -> None:
    adapter = tmp_path / "sql"
    adapter.write_text("its content")
    lines = [completion("base"), completion("sql", model="sql"), completion("other", model="nosql")]
    assert batch(lines, adapters={"sql": str(adapter)}) == 1
    answers = {line["custom_id"]: line["response"]["body"] for line in output()}
    assert answers["sql"]["model"] == "sql"
    assert answers["sql"]["choices"][0]["text"] != answers["base"]["choices"][0]["text"]
    assert "'sql'" in answers["other"]["error"]["message"]


def test_an_adapter_with_the_models_own_name_is_refused(batch, model, tmp_path) -> None:
    with pytest.raises(AdapterError, match="is a name of the base model"):
        batch([completion("a")], adapters={str(model): str(tmp_path)})
