"""OpenVINO GenAI behind the worker protocol of ``bench.targets``: ``python THIS MODEL_FOLDER THREADS``.

Run by the Python of OpenVINO's own environment, so it imports nothing of this package.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from typing import Any

CACHE_GB = 1
TOKENS_PER_STEP = 512  # as fast as 2048 and faster than 128 and 256, for prompts of 350 tokens


def emit(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def read_requests(requests: queue.Queue[dict[str, Any] | None]) -> None:
    for line in sys.stdin:
        requests.put(json.loads(line))
    requests.put(None)


def main() -> None:
    import numpy as np
    import openvino as ov  # type: ignore[import-not-found]
    import openvino_genai as genai  # type: ignore[import-not-found]

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = CACHE_GB
    scheduler.enable_prefix_caching = False
    scheduler.max_num_batched_tokens = TOKENS_PER_STEP
    pipeline = genai.ContinuousBatchingPipeline(
        sys.argv[1], scheduler, "CPU", {"INFERENCE_NUM_THREADS": int(sys.argv[2])}
    )
    requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=read_requests, args=(requests,), daemon=True).start()
    emit({"ready": True})

    open_requests: dict[int, list[Any]] = {}  # id: [handle, tokens still to come]
    while True:
        while not open_requests or not requests.empty():
            request = requests.get()
            if request is None:
                return
            config = genai.GenerationConfig()
            config.max_new_tokens = request["max_tokens"]
            config.ignore_eos = True
            config.do_sample = False
            ids = ov.Tensor(np.array([request["prompt"]], dtype=np.int64))
            handle = pipeline.add_request(request["id"], ids, config)
            open_requests[request["id"]] = [handle, request["max_tokens"]]
        pipeline.step()
        for number, entry in list(open_requests.items()):
            handle = entry[0]
            tokens = 0
            while handle.can_read():
                tokens += sum(len(output.generated_ids) for output in handle.read().values())
            if tokens:
                entry[1] -= tokens
                emit({"id": number, "tokens": tokens})
            if entry[1] <= 0:
                del open_requests[number]
                emit({"id": number, "done": True})


if __name__ == "__main__":
    main()
