"""From words to targets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer.main

from paceline.bench.load.lineup import FLAGS, TAKEN, Lineup, Places, TargetSpecError, parse_adapters, parse_options
from paceline.bench.peers.lineup import PeerPlaces
from paceline.errors import PacelineError


def command(lineup: Lineup, word: str) -> list[str]:
    server = lineup.target(word).server
    assert server is not None
    return server.command


def test_paceline_takes_any_option_of_its_server() -> None:
    lineup = Lineup(model="/models/m.gguf", threads=3)
    start = [sys.executable, "-m", "paceline", "serve", "/models/m.gguf", "--host", "127.0.0.1", "--port", "{port}"]
    start += ["--threads", "3"]
    assert command(lineup, "paceline") == start
    assert command(lineup, "paceline:off") == [*start, "--speculate", "off"]
    assert command(lineup, "paceline:speculate=suffix,turbo,max_draft=4") == [
        *start, "--speculate", "suffix,turbo", "--max-draft", "4",
    ]  # fmt: skip
    assert command(lineup, "paceline:prefix-cache=off,off")[len(start) :] == ["--no-prefix-cache", "--speculate", "off"]
    assert command(lineup, "paceline:model=other")[3:5] == ["serve", "other"]
    assert lineup.target("paceline:off").name == "paceline:off"


def test_flags_and_settings_are_those_of_paceline_serve() -> None:
    from paceline.cli.serve import serve

    app = typer.Typer()
    app.command()(serve)
    options = {name: option for option in typer.main.get_command(app).params for name in option.opts}
    assert {name for name in FLAGS if not getattr(options[f"--{name}"], "is_flag", False)} == set()
    assert {name for name in TAKEN if f"--{name}" not in options} == set()


def test_a_server_is_named_by_its_url() -> None:
    target = Lineup(api_key="k").target("other one=https://host/prefix/v1#org/model")
    assert (target.name, target.model, target.owned) == ("other one", "org/model", False)
    assert target.address.url == "https://host:443/prefix" and target.address.api_key == "k"
    assert Lineup().target("a=http://127.0.0.1:8000").model == ""


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tgi", "no target 'tgi': give paceline, llama.cpp"),
        ("http://127.0.0.1:8000", "NAME=http"),
        ("paceline:fast", "'fast' is no option"),
        ("paceline:port=1", "port cannot be set here"),
        ("paceline:learn=yes", "give on or off"),
        ("vllm", "give --vllm-python or PACELINE_BENCH_VLLM_PYTHON"),
        ("sglang", "--sglang-python"),
        ("llama.cpp", "--llama-server"),
        ("xllamacpp", "--xllamacpp-python"),
        ("transformers", "--transformers-python"),
    ],
)
def test_what_cannot_be_a_target_is_refused_with_what_can(word: str, message: str) -> None:
    with pytest.raises(TargetSpecError, match=message):
        Lineup().target(word)


def test_two_targets_of_one_name_are_refused() -> None:
    assert [target.name for target in Lineup().targets(["paceline", "paceline:off"])] == ["paceline", "paceline:off"]
    with pytest.raises(TargetSpecError, match="two targets paceline"):
        Lineup().targets(["paceline", "paceline"])


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Everything is here, as empty files."""
    for name in ("python", "llama-server", "model.gguf"):
        (tmp_path / name).touch()
    (tmp_path / "hf").mkdir()
    (tmp_path / "lora").mkdir()
    python = str(tmp_path / "python")
    peers = PeerPlaces(llama_server=str(tmp_path / "llama-server"), vllm_python=python, hf_model=str(tmp_path / "hf"))
    return Places(peers, python, python, python)


def test_peers_are_started_on_their_models(places: Places, tmp_path: Path) -> None:
    lineup = Lineup(places, str(tmp_path / "model.gguf"), threads=2)
    words = ["llama.cpp", "xllamacpp", "vllm", "sglang", "transformers"]
    commands = {word: " ".join(command(lineup, word)) for word in words}
    assert f"llama-server -m {tmp_path}/model.gguf -t 2" in commands["llama.cpp"]
    assert f"xllamacpp_server.py {tmp_path}/model.gguf 2 16 {{port}}" in commands["xllamacpp"]
    assert f"serve {tmp_path}/hf" in commands["vllm"] and "prefix-caching" not in commands["vllm"]
    assert f"sglang.launch_server --model-path {tmp_path}/hf" in commands["sglang"]
    assert f"serve {tmp_path}/hf --device cpu" in commands["transformers"]
    assert "--continuous-batching" in command(lineup, "transformers:continuous-batching=on")
    assert command(lineup, "vllm:max-num-seqs=4")[-2:] == ["--max-num-seqs", "4"]
    assert [lineup.target(word).model for word in ("vllm", "transformers")] == ["model", f"{tmp_path}/hf"]
    with pytest.raises(TargetSpecError, match=r"needs a \.gguf file"):
        Lineup(places, str(tmp_path / "hf")).target("llama.cpp:model=x.gguf")


def test_adapters_are_given_to_those_who_can_load_them(places: Places, tmp_path: Path) -> None:
    folder = str(tmp_path / "lora")
    lineup = Lineup(places, str(tmp_path / "model.gguf"), adapters={"a": folder})
    assert f"--adapter a={folder}" in " ".join(command(lineup, "paceline"))
    assert f"--enable-lora --lora-modules a={folder}" in " ".join(command(lineup, "vllm"))
    assert f"--lora-paths a={folder}" in " ".join(command(lineup, "sglang"))
    for word in ("llama.cpp", "xllamacpp", "transformers"):
        with pytest.raises(TargetSpecError, match="not started with adapters"):
            lineup.target(word)
    assert list(lineup.target("x=http://h").adapters) == ["a"]
    with pytest.raises(TargetSpecError, match="needs the adapter's folder"):
        Lineup(adapters={"a": ""}).target("paceline")
    with pytest.raises(TargetSpecError, match="there is no such folder"):
        Lineup(adapters={"a": "/nowhere"}).target("paceline")


def test_adapters_come_by_name_or_with_a_folder() -> None:
    assert parse_adapters(["a", "b=/x/y=z"]) == {"a": "", "b": "/x/y=z"}
    for words in (["=x"], ["a", "a=/b"]):
        with pytest.raises(TargetSpecError):
            parse_adapters(words)


def test_places_come_from_variables_and_options_go_before() -> None:
    places = Places.from_environment({"PACELINE_BENCH_SGLANG_PYTHON": "/s", "PACELINE_BENCH_VLLM_PYTHON": "/v"})
    assert (places.sglang_python, places.peers.vllm_python) == ("/s", "/v")
    named = places.given(vllm_python="/w", xllamacpp_python="/x", hf_model="", sglang_python="")
    assert (named.sglang_python, named.peers.vllm_python, named.xllamacpp_python) == ("/s", "/w", "/x")


def test_options_of_a_word() -> None:
    assert parse_options([""], "w") == {}
    assert parse_options(["a=1", "b_c=x=y", "z"], "w") == {"a": "1", "b-c": "x=y,z"}
    with pytest.raises(PacelineError):
        parse_options(["a"], "w")


def test_options_of_the_own_server_are_taken_as_they_are() -> None:
    json = 'speculative-config={"a": 1, "b": 2}'
    target = Lineup().own([json, "prefix-cache=off"])
    assert target.server is not None
    assert target.server.command[-3:] == ["--speculative-config", '{"a": 1, "b": 2}', "--no-prefix-cache"]
    assert Lineup().own().name == "paceline"
    with pytest.raises(TargetSpecError, match="--serve-option"):
        Lineup().own(["fast"])
