"""Adapters over HTTP: they are models to a client; loading them at run time is closed unless it was opened."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest
from scripted_server import LiveServer

from paceline.engine.messages import AdapterInfo, AdapterStats, EngineStats, SpeculatorInfo
from paceline.server.engine_counters import add_counters
from paceline.server.problems import ApiError
from paceline.server.routes_adapters import allowed_folder

MESSAGES = [{"role": "user", "content": "Hi"}]
CHAT, LOAD, UNLOAD = "/v1/chat/completions", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture
def server(serve) -> LiveServer:
    """With the adapters sql and ner."""
    live = serve()
    for name in ("sql", "ner"):
        live.engine.adapters[name] = AdapterInfo(name=name, path=f"/adapters/{name}")
    return live


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of adapters, beside a secret one."""
    for name in ("adapters/a", "adapters/b", "secret"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path / "adapters"


@pytest.fixture
def open_server(serve, folder) -> LiveServer:
    return serve(adapter_dir=folder)


class TestChoosing:
    @pytest.mark.parametrize(
        ("fields", "adapter", "shown"),
        [
            ({}, None, "tiny"),
            ({"model": "tiny"}, None, "tiny"),
            ({"model": "alias"}, None, "alias"),
            ({"model": "sql"}, "sql", "sql"),
            ({"adapter_id": "ner"}, "ner", "ner"),
            ({"model": "tiny", "adapter_id": "ner"}, "ner", "ner"),
            ({"model": "ner", "adapter_id": "ner", "adapter_source": "local"}, "ner", "ner"),
            ({"model": "sql", "adapter_id": None}, "sql", "sql"),
        ],
    )
    @pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
    def test_model_or_adapter_id_names_the_adapter(self, path, fields, adapter, shown, server) -> None:
        body = {"messages": MESSAGES} if path == CHAT else {"prompt": ["x", "y"]}
        answer = server.post(path, {**body, **fields}).json()
        assert answer["model"] == shown
        assert {request.adapter for request in server.engine.requests} == {adapter}

    def test_streams_name_it_in_every_chunk(self, server) -> None:
        text = server.post(CHAT, {"messages": MESSAGES, "model": "sql", "stream": True}).text
        assert text.count('"model":"sql"') == text.count("data: ") - 1  # all but [DONE]

    def test_an_unknown_model_is_404_with_the_list(self, server) -> None:
        response = server.post(CHAT, {"messages": MESSAGES, "model": "sqi"})
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert error["message"] == (
            "The model 'sqi' does not exist. Did you mean 'sql'? This server has 'tiny', 'alias', 'sql', 'ner'."
        )

    def test_the_list_in_an_error_ends_somewhere(self, server) -> None:
        for i in range(100):
            server.engine.adapters[f"many{i}"] = AdapterInfo(name=f"many{i}", path="/")
        message = server.post(CHAT, {"messages": MESSAGES, "model": "zzz"}).json()["error"]["message"]
        assert "and 84 more, see /v1/models" in message and len(message) < 500

    @pytest.mark.parametrize(
        ("fields", "status", "words"),
        [
            ({"adapter_id": "x"}, 404, "This server has 'sql', 'ner'"),
            ({"adapter_id": "tiny"}, 404, "does not exist"),
            ({"model": "sql", "adapter_id": "ner"}, 400, "two adapters, 'sql' and 'ner'"),
            ({"adapter_id": "ner", "adapter_source": "s3"}, 400, "'adapter_source' is not supported"),
            ({"adapter_id": 3}, 400, "'adapter_id'"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, fields, status, words, server) -> None:
        response = server.post(CHAT, {"messages": MESSAGES, **fields})
        assert response.status_code == status and words in response.json()["error"]["message"]
        assert server.engine.requests == []

    def test_tokenizing_for_an_adapter_is_tokenizing(self, server) -> None:
        assert server.post("/tokenize", {"prompt": "ab", "model": "sql"}).json()["count"] == 2

    def test_the_openai_client_sees_adapters_as_models(self, server) -> None:
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["tiny", "alias", "sql", "ner"]
            answer = client.chat.completions.create(model="ner", messages=MESSAGES)  # type: ignore[arg-type]
            assert answer.model == "ner"


def test_models_are_listed_with_their_parents_and_paths(server) -> None:
    cards = {card["id"]: card for card in server.get("/v1/models").json()["data"]}
    assert [cards[name]["parent"] for name in ("tiny", "alias", "sql", "ner")] == [None, None, "tiny", "tiny"]
    assert (cards["sql"]["root"], cards["tiny"]["root"]) == ("/adapters/sql", "/models/tiny")
    assert cards["sql"]["max_model_len"] == 2048 and cards["sql"]["object"] == "model"
    assert server.get("/v1/models/ner").json() == cards["ner"]
    assert (cards["sql"]["kind"], cards["sql"]["speculator"]) == ("LoRA", None) and "kind" not in cards["tiny"]
    assert server.get("/v1/models/nor").status_code == 404


def test_models_tell_which_adapters_have_a_speculator(server) -> None:
    own = SpeculatorInfo(positions=6, vocab_size=4096, nbytes=1000)
    server.engine.adapters["fast"] = AdapterInfo(name="fast", path="/adapters/fast", nbytes=3000, speculator=own)
    card = server.get("/v1/models/fast").json()
    assert (card["kind"], card["bytes"]) == ("Turbo LoRA", 3000)
    assert card["speculator"] == {"positions": 6, "vocab_size": 4096, "bytes": 1000}


class TestRuntimeLoading:
    def test_is_closed_by_default(self, server) -> None:
        for path, body in ((LOAD, {"lora_name": "a", "lora_path": "/etc"}), (UNLOAD, {"lora_name": "sql"})):
            response = server.post(path, body)
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (403, "runtime_adapters_disabled")
            assert "--allow-runtime-adapters" in error["message"]
        assert sorted(server.engine.adapters) == ["ner", "sql"]

    @pytest.mark.parametrize("relative", [True, False])
    def test_loads_from_below_the_folder(self, relative, open_server, folder) -> None:
        path = "a" if relative else str(folder / "a")
        response = open_server.post(LOAD, {"lora_name": "new", "lora_path": path})
        assert response.status_code == 200 and "'new'" in response.text
        assert open_server.engine.adapters["new"].path == str(folder.resolve() / "a")
        assert open_server.post(CHAT, {"messages": MESSAGES, "model": "new"}).status_code == 200

    def test_unloads(self, open_server) -> None:
        open_server.post(LOAD, {"lora_name": "a", "lora_path": "a"})
        assert open_server.post(UNLOAD, {"lora_name": "a"}).status_code == 200
        assert open_server.post(CHAT, {"messages": MESSAGES, "model": "a"}).status_code == 404
        assert open_server.post(UNLOAD, {"lora_name": "a"}).status_code == 404

    def test_a_name_is_taken_unless_it_is_to_be_replaced(self, open_server, folder) -> None:
        body = {"lora_name": "a", "lora_path": "a"}
        assert open_server.post(LOAD, body).status_code == 200
        response = open_server.post(LOAD, {**body, "lora_path": "b"})
        assert response.status_code == 400 and "load_inplace" in response.json()["error"]["message"]
        assert open_server.post(LOAD, {**body, "lora_path": "b", "load_inplace": True}).status_code == 200
        assert open_server.engine.adapters["a"].path == str(folder.resolve() / "b")

    @pytest.mark.parametrize(
        "path", ["..", "../secret", "a/../../secret", ".", "/", "/etc", "a/../", "~/x", "link", "link/x", "a\0b"]
    )
    def test_nothing_outside_the_folder_is_touched(self, path, open_server, folder) -> None:
        (folder / "link").symlink_to(folder.parent / "secret")
        response = open_server.post(LOAD, {"lora_name": "x", "lora_path": path})
        if path == "~/x":  # a folder of that name below: nobody's home
            assert response.status_code == 404
        else:
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (403, "path_not_allowed")
        assert open_server.engine.adapters == {}

    def test_a_path_outside_is_answered_alike_whether_it_exists_or_not(self, folder) -> None:
        told = []
        for path in ("../secret", "../nothing"):
            with pytest.raises(ApiError) as caught:
                allowed_folder(folder, path)
            told.append((caught.value.status, caught.value.message.replace(path, "PATH")))
        assert told[0] == told[1]

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({"lora_path": "a"}, 400),
            ({"lora_name": "a"}, 400),
            ({"lora_name": "", "lora_path": "a"}, 400),
            ({"lora_name": "a", "lora_path": "a", "colour": "red"}, 400),
            ({"lora_name": "tiny", "lora_path": "a"}, 400),
            ({"lora_name": "a", "lora_path": "nothing"}, 404),
        ],
    )
    def test_bad_bodies_are_refused(self, body, status, open_server) -> None:
        assert open_server.post(LOAD, body).status_code == status
        assert open_server.engine.adapters == {}

    def test_a_bad_adapter_is_400_with_the_reason(self, open_server) -> None:
        open_server.engine.adapter_error = "rank 8 of layer 3 does not fit"
        response = open_server.post(LOAD, {"lora_name": "a", "lora_path": "a"})
        assert response.status_code == 400 and "rank 8 of layer 3" in response.json()["error"]["message"]

    def test_keys_guard_it(self, serve, folder) -> None:
        live = serve(adapter_dir=folder, api_keys=("k",))
        assert live.post(LOAD, {"lora_name": "a", "lora_path": "a"}).status_code == 401


def test_the_metrics_tell_adapters_apart(server) -> None:
    server.engine.stats = EngineStats(
        adapters=[AdapterStats(adapter="sql", requests=3, generation_tokens=40, running=2, loads=1, load_seconds=0.5)]
    )
    text = server.get("/metrics").text
    labels = 'adapter="sql",engine="0",model_name="tiny"'
    for line in (
        f"paceline:adapter_requests_total{{{labels}}} 3.0",
        f"paceline:adapter_generation_tokens_total{{{labels}}} 40.0",
        f"paceline:adapter_requests_running{{{labels}}} 2.0",
        f"paceline:adapter_load_seconds_total{{{labels}}} 0.5",
    ):
        assert line in text or _reordered(line) in text


def _reordered(line: str) -> str:
    """The labels in the order in which the families name them."""
    return line.replace('adapter="sql",engine="0",model_name="tiny"', 'model_name="tiny",engine="0",adapter="sql"')


def test_counters_of_an_adapter_go_on_over_restarts_and_its_gauges_do_not() -> None:
    old = EngineStats(
        adapters=[
            AdapterStats(adapter="a", requests=5, running=3, waiting=1, loads=1),
            AdapterStats(adapter="b", requests=2, running=1),
        ]
    )
    new = EngineStats(adapters=[AdapterStats(adapter="b", requests=1, running=1, load_seconds=0.5)])
    a, b = add_counters(new, old).adapters
    assert (a.requests, a.running, a.waiting, a.loads) == (5, 0, 0, 1)
    assert (b.requests, b.running, b.load_seconds) == (3, 1, 0.5)
