"""llama.cpp's server from the package ``xllamacpp``: ``python xllamacpp_server.py MODEL.gguf THREADS SLOTS PORT``.

Run by a Python that has the package. Its prebuilt kernels may be older than the machine's instructions (AVX2): say so
where its figures stand.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

SLOT_CONTEXT = 2048  # tokens of each slot


def parameters(model: str, threads: int, slots: int, port: int) -> Any:
    import xllamacpp  # type: ignore[import-not-found]

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_parallel = slots
    params.n_ctx = slots * SLOT_CONTEXT
    params.port = port
    params.hostnames = ["127.0.0.1"]
    params.endpoint_metrics = True
    return params


def main() -> None:
    import xllamacpp

    model, *numbers = sys.argv[1:]
    server = xllamacpp.Server(parameters(model, *map(int, numbers)))  # runs in threads of its own
    print(f"listening at {server.listening_address}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
