"""Files of a data folder, made of rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write(folder: Path, file: str, rows: Sequence[dict[str, Any]]) -> None:
    """JSON lines, with gzip where the name ends so."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if file.endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
