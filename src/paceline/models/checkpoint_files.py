"""Reading the small files of a model folder. Imports no torch, so the server process can use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paceline.errors import ModelLoadError


def read_json(path: Path) -> Any:
    """Parses a JSON file; a missing or malformed one is a ``ModelLoadError`` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelLoadError(f"{path.parent} has no {path.name}; is it a Hugging Face model folder?") from error
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"cannot read {path}: {error}") from error
