"""Rows of a task for ``paceline train``, and others to measure with.

    python prepare.py entities|matching DATA OUTPUT [--rows 3000] [--prompts 6000]

DATA is the folder of the task's data (see entities.py, matching.py). OUTPUT gets train.jsonl, prompts.jsonl (further
rows without answers: a speculator learns from what the adapter answers) and dev.jsonl.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tasks import TASKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--prompts", type=int, default=0)
    parser.add_argument("--dev-rows", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    task = TASKS[options.task]
    options.output.mkdir(parents=True, exist_ok=True)
    rows = task.rows(options.data, False, options.rows, options.seed)
    known = {said for said, _ in rows}
    others = task.rows(options.data, False, options.rows + 2 * options.prompts, options.seed)
    parts = {
        "train": rows,
        "prompts": [(said, None) for said, _ in others if said not in known][: options.prompts],
        "dev": task.rows(options.data, True, options.dev_rows, options.seed),
    }
    for name, part in parts.items():
        lines = [task.as_chat(*row) for row in part]
        (options.output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
        print(f"{options.output / name}.jsonl: {len(lines)} rows")


if __name__ == "__main__":
    main()
