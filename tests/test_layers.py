"""Imports only go down (docs: architecture), a room is named for what it does, and light modules stay light."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import paceline

SOURCE = Path(paceline.__file__).parent

#: From top to bottom. A room may import itself and rooms of lower rows, not its neighbours.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"training", "bench"},
    {"llm", "server"},
    {"engine"},
    {"speculation"},
    {"adapters", "models"},
    {"kv"},
    {"backends"},
    {"quantization", "sampling", "distributed", "learning"},
    {"_cpu", "_suffix", "caller", "errors", "_version"},
]
HEIGHT = {room: -row for row, rooms in enumerate(LAYERS) for room in rooms}

#: Imported by the server process, which must start fast and stay small: no torch, no transformers.
LIGHT = [
    "paceline",
    "paceline.errors",
    "paceline.sampling.params",
    "paceline.sampling.outputs",
    "paceline.engine.messages",
    "paceline.engine.options",
    "paceline.engine.output",
    "paceline.models.sources",
    "paceline.models.tokenizer",
    "paceline.server.app",
    "paceline.cli",
]


def room_of(module: str) -> str:
    """``paceline.engine.scheduler`` -> ``engine``; the package itself -> ``""``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports_of(tree: ast.Module, package: str) -> list[tuple[int, str]]:
    """(line, module) of every import of this project anywhere in a file, inside functions too."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            # ``from paceline import engine`` names a room, too.
            found += [(node.lineno, f"{base}.{alias.name}" if base == "paceline" else base) for alias in node.names]
    return [(line, module) for line, module in found if module.split(".")[0] == "paceline"]


def upward_imports(tree: ast.Module, module: str, is_package: bool) -> list[str]:
    """Imports that do not go down."""
    own = room_of(module)
    package = module if is_package else module.rpartition(".")[0]
    wrong = []
    for line, imported in imports_of(tree, package):
        room = room_of(imported)
        if room in HEIGHT and room != own and HEIGHT[room] >= HEIGHT[own]:
            wrong.append(f"{module}:{line} ({own}) imports {imported} ({room})")
    return wrong


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ("paceline", *path.relative_to(SOURCE).with_suffix("").parts)
        found.append((".".join(parts).removesuffix(".__init__"), path))
    return found


def test_imports_only_go_down() -> None:
    wrong = []
    for module, path in modules():
        if module != "paceline":  # the package itself offers LLM lazily, from the top
            wrong += upward_imports(ast.parse(path.read_text()), module, path.name == "__init__.py")
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_layer() -> None:
    rooms = {room_of(module) for module, _ in modules()} - {""}
    assert rooms <= set(HEIGHT), f"not in LAYERS: {sorted(rooms - set(HEIGHT))}"


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("paceline.models.spec", "from paceline.engine.sequence import Sequence"),
        ("paceline.sampling.sampler", "def f():\n    import paceline.engine.messages"),
        ("paceline.quantization.packed", "from paceline import sampling"),
        ("paceline.backends.cpu.program", "from ...models import spec"),
        ("paceline.server.app", "from paceline.llm import LLM"),
        ("paceline.errors", "from paceline.engine.messages import Request"),
    ],
)
def test_an_import_that_goes_up_or_sideways_is_found(module: str, code: str) -> None:
    assert upward_imports(ast.parse(code), module, is_package=False)


def test_an_import_that_goes_down_is_allowed() -> None:
    code = "from paceline.sampling.params import SamplingParams\nfrom . import config\nimport paceline.errors"
    assert not upward_imports(ast.parse(code), "paceline.engine.engine", is_package=False)


def test_nothing_is_named_for_being_useful() -> None:
    vague = {"utils", "util", "helpers", "helper", "misc", "common_utils"}
    assert not [module for module, _ in modules() if vague & set(module.split("."))]


@pytest.mark.parametrize("module", LIGHT)
def test_what_the_server_imports_stays_light(module: str) -> None:
    try:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not there")
    except ModuleNotFoundError:
        pytest.skip(f"{module} is not there")
    code = (
        f"import sys, {module}; heavy = [m for m in ('torch', 'transformers', 'numpy') if m in sys.modules]; "
        "sys.exit(', '.join(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"importing {module} imports {done.stderr.strip()}"
