"""From the words on the command line to servers under load: Paceline with any options, URLs, and peers started here."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from paceline.bench.endpoint import endpoint_of
from paceline.bench.load.settings import Api
from paceline.bench.load.targets import LoadTarget
from paceline.bench.peers.lineup import MAX_REQUESTS, PeerPlaces, llama_server, vllm_server
from paceline.bench.peers.targets import HOST, HttpTarget
from paceline.errors import PacelineError

WORKERS = Path(__file__).parent / "workers"
FLAGS = ("prefix-cache", "access-log", "allow-runtime-adapters", "learn")  # of paceline serve, that take no value
TAKEN = ("host", "port", "served-model-name", "adapter", "threads")  # set here
OFF = "off"
PROBE_SECONDS = 60.0  # that a server may take for a single question
_URL = re.compile(r"(?P<name>[^=:/]+)=(?P<url>https?://[^#]+)(?:#(?P<model>.+))?")


class TargetSpecError(PacelineError):
    """A target that cannot be made from what the user wrote."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where peers are, beside those that ``bench peers`` knows; empty: not here."""

    peers: PeerPlaces = field(default_factory=PeerPlaces)
    xllamacpp_python: str = ""
    sglang_python: str = ""
    transformers_python: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Places:
        """Places named by ``PACELINE_BENCH_*`` variables."""
        names = ("xllamacpp_python", "sglang_python", "transformers_python")
        own = {name: environment.get(f"PACELINE_BENCH_{name.upper()}", "") for name in names}
        return cls(PeerPlaces.from_environment(environment), **own)

    def given(self, **places: str) -> Places:
        """The same with places that were named otherwise, by the names of their fields; empty ones change nothing."""
        named = {name: place for name, place in places.items() if place}
        peers = asdict(self.peers) | {name: place for name, place in named.items() if not hasattr(self, name)}
        own = {name: place for name, place in named.items() if hasattr(self, name)}
        return replace(self, peers=PeerPlaces(**peers), **own)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Lineup:
    """What all targets have in common. ``model``: the folder, file, id or alias that Paceline serves, "" for the
    default model. ``adapters``: folders by name; an empty folder is enough for a server that has the adapter."""

    places: Places = field(default_factory=Places)
    model: str = ""
    threads: int = 1
    adapters: Mapping[str, str] = field(default_factory=dict)
    api: Api = "auto"
    api_key: str | None = None

    def targets(self, words: Sequence[str]) -> list[LoadTarget]:
        """One target for each word. Raises ``TargetSpecError`` for one that is not known, not here, or there twice."""
        targets = [self.target(word) for word in words]
        names = [target.name for target in targets]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise TargetSpecError(f"there are two targets {', '.join(twice)}; give each its own options or name")
        return targets

    def target(self, word: str) -> LoadTarget:
        """A target from ``NAME=URL[#MODEL]`` or ``KIND[:off][:KEY=VALUE,...]``. Raises ``TargetSpecError``."""
        found = _URL.fullmatch(word)
        if found:
            return self.remote(found["name"], found["url"], found["model"] or "")
        kind, _, rest = word.partition(":")
        make = _KINDS.get(kind)
        if make is None:
            raise TargetSpecError(f"no target {word!r}: give {', '.join(_KINDS)} or NAME=http://HOST:PORT[#MODEL]")
        return self._started(make(self, word, parse_options(rest.split(","), word)))

    def own(self, options: Sequence[str] = ()) -> LoadTarget:
        """Paceline's own server with ``KEY=VALUE`` options, one each. Raises ``TargetSpecError``."""
        found: dict[str, str] = {}
        for option in options:
            found |= parse_options([option], f"--serve-option {option}")
        return self._started(self.paceline(":".join(["paceline", *([",".join(options)] if options else [])]), found))

    def _started(self, server: HttpTarget) -> LoadTarget:
        model = server.extra.get("model", "")
        return LoadTarget(server.name, server=server, adapters=list(self.adapters), api=self.api, model=model)

    def remote(self, name: str, url: str, model: str = "") -> LoadTarget:
        """A server that runs somewhere. Raises ``EndpointError`` for what is no URL."""
        endpoint = endpoint_of(url, self.api_key, timeout=PROBE_SECONDS)
        return LoadTarget(name, endpoint, model=model, adapters=list(self.adapters), api=self.api)

    def paceline(self, name: str, options: Mapping[str, str]) -> HttpTarget:
        """Paceline's own server, as served unless ``options`` say otherwise."""
        options = dict(options)
        model = options.pop("model", self.model)
        wrong = sorted(set(options) & set(TAKEN))
        if wrong:
            raise TargetSpecError(f"{name}: {', '.join(wrong)} cannot be set here: the bench sets it for all targets")
        command = [sys.executable, "-m", "paceline", "serve", *([model] if model else [])]
        command += ["--host", HOST, "--port", "{port}", "--threads", str(self.threads)]
        for adapter, folder in self.adapters.items():
            command += ["--adapter", f"{adapter}={_folder(name, adapter, folder)}"]
        for key, value in options.items():
            command += _flag(key, value) if key in FLAGS else [f"--{key}", value]
        return HttpTarget(name, command, kind="own", ready="/ready")

    def llama(self, name: str, options: Mapping[str, str]) -> HttpTarget:
        """llama.cpp's own server."""
        self._no_adapters(name)
        binary = _here(name, "--llama-server", self.places.peers.llama_server)
        server = llama_server(binary, self._gguf(name, options), self.threads, baseline=False)
        server.command += _more(options)
        return HttpTarget(name, server.command, server.environment)

    def xllamacpp(self, name: str, options: Mapping[str, str]) -> HttpTarget:
        """llama.cpp's server from the Python package."""
        self._no_adapters(name)
        python = _here(name, "--xllamacpp-python", self.places.xllamacpp_python)
        if set(options) - {"model"}:
            raise TargetSpecError(f"{name}: xllamacpp takes no option but model=FILE.gguf")
        model = str(self._gguf(name, options))
        worker = str(WORKERS / "xllamacpp_server.py")
        return HttpTarget(name, [python, worker, model, str(self.threads), str(MAX_REQUESTS), "{port}"])

    def vllm(self, name: str, options: Mapping[str, str]) -> HttpTarget:
        """vLLM's server, CPU build."""
        python = _here(name, "--vllm-python", self.places.peers.vllm_python)
        server = vllm_server(python, self._folder_model(name, options), self.threads, name, prefix_cache=True)
        modules = [f"{adapter}={_folder(name, adapter, folder)}" for adapter, folder in self.adapters.items()]
        server.command += [*(["--enable-lora", "--lora-modules", *modules] if modules else []), *_more(options)]
        return server

    def sglang(self, name: str, options: Mapping[str, str]) -> HttpTarget:
        """SGLang's server on the CPU."""
        python = _here(name, "--sglang-python", self.places.sglang_python)
        command = [python, "-m", "sglang.launch_server", "--model-path", self._folder_model(name, options)]
        command += ["--device", "cpu", "--host", HOST, "--port", "{port}"]
        modules = [f"{adapter}={_folder(name, adapter, folder)}" for adapter, folder in self.adapters.items()]
        command += [*(["--lora-paths", *modules] if modules else []), *_more(options)]
        return HttpTarget(name, command, self._environment(), start_timeout=400.0)

    def transformers(self, name: str, options: Mapping[str, str]) -> HttpTarget:
        """``transformers serve``."""
        self._no_adapters(name)
        python = _here(name, "--transformers-python", self.places.transformers_python)
        model = self._folder_model(name, options)
        command = [python, "-m", "transformers.cli.transformers", "serve", model, "--device", "cpu"]
        command += ["--host", HOST, "--port", "{port}", *_more(options)]
        return HttpTarget(name, command, self._environment(), extra={"model": model}, start_timeout=400.0)

    def _environment(self) -> dict[str, str]:
        return {"OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1"}

    def _gguf(self, name: str, options: Mapping[str, str]) -> Path:
        """The file that Paceline serves, or another one by the target's own option."""
        from paceline.models.sources import resolve_model

        given = options.get("model")
        path = Path(given) if given else resolve_model(self.model).path
        if path.suffix != ".gguf" or not path.is_file():
            raise TargetSpecError(f"{name} needs a .gguf file, and {path} is none: give {name}:model=FILE.gguf")
        return path

    def _folder_model(self, name: str, options: Mapping[str, str]) -> str:
        return _here(name, "--hf-model", options.get("model") or self.places.peers.hf_model)

    def _no_adapters(self, name: str) -> None:
        if self.adapters:
            raise TargetSpecError(f"{name} is not started with adapters here: start it yourself and give NAME=URL")


_KINDS: Mapping[str, Callable[[Lineup, str, Mapping[str, str]], HttpTarget]] = {
    "paceline": Lineup.paceline,
    "llama.cpp": Lineup.llama,
    "xllamacpp": Lineup.xllamacpp,
    "vllm": Lineup.vllm,
    "sglang": Lineup.sglang,
    "transformers": Lineup.transformers,
}


def parse_options(parts: Sequence[str], word: str) -> dict[str, str]:
    """``KEY=VALUE`` by key, with dashes; a part without = goes on with the value before it, as drafters' names do.
    ``off`` is short for ``speculate=off``. Raises ``TargetSpecError``."""
    found: dict[str, str] = {}
    key = ""
    for part in filter(None, map(str.strip, parts)):
        name, is_pair, value = part.partition("=")
        if is_pair:
            key = name.strip().lstrip("-").replace("_", "-")
            found[key] = value.strip()
        elif part == OFF:
            found["speculate"] = OFF
        elif key:
            found[key] += f",{part}"
        else:
            raise TargetSpecError(f"{word!r}: {part!r} is no option: give off or KEY=VALUE, several with commas")
    return found


def _flag(key: str, value: str) -> list[str]:
    if value not in ("on", "off"):
        raise TargetSpecError(f"{key}={value}: give on or off")
    return [f"--{key}" if value == "on" else f"--no-{key}"]


def _more(options: Mapping[str, str]) -> list[str]:
    """A peer's own options, as they are; ``on``: one without a value."""
    pairs = ((key, value) for key, value in options.items() if key != "model")
    return [part for key, value in pairs for part in ([f"--{key}"] if value == "on" else [f"--{key}", value])]


def _here(name: str, flag: str, place: str) -> str:
    """A place that must be given and exist. Raises ``TargetSpecError``."""
    variable = "PACELINE_BENCH_" + flag.removeprefix("--").replace("-", "_").upper()
    if not place:
        raise TargetSpecError(f"{name} is not here: give {flag} or {variable}")
    if not Path(place).exists():
        raise TargetSpecError(f"{name}: {flag} names {place}, which does not exist")
    return place


def _folder(name: str, adapter: str, folder: str) -> str:
    if not folder:
        raise TargetSpecError(f"{name} is started here, so it needs the adapter's folder: --adapter {adapter}=FOLDER")
    if not Path(folder).expanduser().is_dir():
        raise TargetSpecError(f"--adapter {adapter}={folder}: there is no such folder")
    return str(Path(folder).expanduser())


def parse_adapters(words: Sequence[str]) -> dict[str, str]:
    """``NAME`` or ``NAME=FOLDER``, folders by name. Raises ``TargetSpecError``."""
    found: dict[str, str] = {}
    for word in words:
        name, _, folder = word.partition("=")
        if not name.strip() or name.strip() in found:
            raise TargetSpecError(f"--adapter {word!r}: give NAME, or NAME=FOLDER for a server started here, each once")
        found[name.strip()] = folder.strip()
    return found
