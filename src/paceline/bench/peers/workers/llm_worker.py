"""``paceline.LLM`` behind the worker protocol of ``bench.targets``: ``python -m ... MODEL THREADS``.

Without drafts, like the server that it is compared with. It times itself: ``seconds`` in the last line is the whole
call, without this protocol's own cost.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def emit(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main() -> None:
    from paceline import LLM, SamplingParams, SpeculationOptions

    llm = LLM(sys.argv[1], threads=int(sys.argv[2]), speculation=SpeculationOptions(speculate="off"))
    emit({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        params = SamplingParams(max_tokens=request["max_tokens"], temperature=0.0, ignore_eos=True)
        start = time.perf_counter()
        tokens = sum(len(part.token_ids) for part in llm.generate_stream(request["prompt"], params))
        seconds = time.perf_counter() - start
        emit({"id": request["id"], "tokens": tokens})
        emit({"id": request["id"], "done": True, "seconds": seconds})


if __name__ == "__main__":
    main()
