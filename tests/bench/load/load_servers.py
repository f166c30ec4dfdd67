"""How scripted servers (``fake_server_program.py``) are started."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from paceline.bench.peers.targets import HttpTarget

PROGRAM = Path(__file__).parent / "fake_server_program.py"


def command(**options: Any) -> list[str]:
    return [sys.executable, str(PROGRAM), "{port}", json.dumps(options)]


def scripted_target(name: str, **options: Any) -> HttpTarget:
    """A scripted server that a run starts itself."""
    return HttpTarget(name, command(**options))
