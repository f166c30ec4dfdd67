"""Hidden states of regenerated texts, one folder a chunk: may be stopped at any time and started again.

    python examples/base_speculator/collect.py OUT/texts OUT/states [--layers 2,15,29] [--chunks 40] [--wait]

``--wait``: for chunks that are still being written, up to ``--chunks`` of them.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from paceline.backends.registry import get_backend
from paceline.models.loading import load_model
from paceline.models.sources import resolve_model
from paceline.training.architecture import default_layers
from paceline.training.regenerate import read_texts
from paceline.training.states import StateReader, collect

WINDOW = 512  # tokens of a prompt that are kept
MAX_TOKENS = 2048
MAX_BYTES = 1 << 30  # of a chunk
TOP = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--layers", default="")
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--wait", action="store_true")
    args = parser.parse_args()
    backend = get_backend("cpu", threads=args.threads)
    model = load_model(resolve_model(args.model).path, backend)
    layers = (
        tuple(int(layer) for layer in args.layers.split(",")) if args.layers else default_layers(model.spec.num_layers)
    )
    reader = StateReader(model, backend, layers, MAX_TOKENS)
    for number in range(args.chunks):
        source, folder = args.texts / f"{number:04}.jsonl", args.out / f"{number:04}"
        while args.wait and not source.exists():
            time.sleep(5)
        if not source.exists():
            break
        if folder.exists():
            continue
        started, partial = time.time(), args.out / f"{number:04}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        states = collect(reader, read_texts(source), partial, layers, window=WINDOW, top=TOP, max_bytes=MAX_BYTES)
        partial.rename(folder)
        seconds, files = time.time() - started, states.files
        print(f"{folder.name}: {files.texts} texts, {files.tokens} tokens, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
