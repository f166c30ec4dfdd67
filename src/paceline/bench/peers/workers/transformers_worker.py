"""transformers' ``generate`` behind the worker protocol of ``bench.targets``: ``python THIS MODEL THREADS``.

Requests that arrive together are one batch (their prompts must have one length), as a user of ``generate`` would do
it. ``MODEL`` is a folder in Hugging Face form.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Any

GATHER_SECONDS = 0.005


def emit(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def read_requests(requests: queue.Queue[dict[str, Any] | None]) -> None:
    for line in sys.stdin:
        requests.put(json.loads(line))
    requests.put(None)


def gather(requests: queue.Queue[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """The next request and those that come within a moment; empty at the end of the input."""
    batch: list[dict[str, Any]] = []
    request = requests.get()
    while request is not None:
        batch.append(request)
        try:
            request = requests.get(timeout=GATHER_SECONDS)
        except queue.Empty:
            break
    return batch


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, StoppingCriteria

    torch.set_num_threads(int(sys.argv[2]))
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16).eval()

    class Report(StoppingCriteria):
        """Called after each token; never stops."""

        def __init__(self, ids: list[int]) -> None:
            self.ids = ids

        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            for number in self.ids:
                emit({"id": number, "tokens": 1})
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=read_requests, args=(requests,), daemon=True).start()
    emit({"ready": True})
    while batch := gather(requests):
        ids = torch.tensor([request["prompt"] for request in batch])
        tokens = batch[0]["max_tokens"]
        report = Report([request["id"] for request in batch])
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                stopping_criteria=[report],
            )
        for request in batch:
            emit({"id": request["id"], "done": True})


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
