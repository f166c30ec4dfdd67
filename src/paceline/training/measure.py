"""What a training was worth, measured by the engine that will serve it, on rows that were not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from paceline.engine.factory import eos_ids, open_backend
from paceline.engine.machine import usable_cores
from paceline.llm import LLM
from paceline.models.loading import load_model
from paceline.sampling.params import SamplingParams
from paceline.speculation.drafters.turbo_format import read_config
from paceline.speculation.drafters.turbo_loading import open_turbo_drafter
from paceline.training.data import Example
from paceline.training.evaluate import acceptance

DRAFT_PROMPTS = 64  # that acceptance is measured on
RUNNING = 8  # sequences at a time
AT_ONCE = 32  # rows between two reports of progress


def answer_figures(
    llm: LLM,
    held: Sequence[Example],
    adapter: str | None,
    max_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Of the held-out answers: ``exact_match``, the share that greedy decoding writes exactly (white space around it
    aside), within ``max_tokens``; ``loss``, nats a token of the answer, its end included, and ``perplexity``;
    ``output_tokens``, mean length of what was written."""
    exact = written = tokens = 0
    nats = 0.0
    score = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    for start in range(0, len(held), AT_ONCE):
        part = held[start : start + AT_ONCE]
        params = [greedy(llm, len(example.prompt_ids), max_tokens) for example in part]
        answers = llm.generate([example.prompt_ids for example in part], params, adapter=adapter)
        whole = llm.generate([e.prompt_ids + (e.answer_ids or []) for e in part], score, adapter=adapter)
        for example, answer, scored in zip(part, answers, whole, strict=True):
            (output,) = answer.outputs
            assert example.answer_ids is not None and scored.prompt_logprobs is not None
            exact += output.text.strip() == llm.tokenizer.decode(example.answer_ids).strip()
            written += len(output.token_ids)
            own = scored.prompt_logprobs[len(example.prompt_ids) :]
            nats -= sum(entry.logprob for entry in own if entry is not None)
            tokens += len(own)
        if progress is not None:
            progress(min(start + AT_ONCE, len(held)), len(held))
    loss = nats / tokens
    return {
        "rows": len(held),
        "exact_match": exact / len(held),
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "output_tokens": written / len(held),
    }


def greedy(llm: LLM, prompt_length: int, max_tokens: int) -> SamplingParams:
    """Parameters of a greedy answer of at most ``max_tokens``, as far as the context goes."""
    return SamplingParams(temperature=0.0, max_tokens=max(1, min(max_tokens, llm.info.context_length - prompt_length)))


def draft_figures(
    path: Path,
    name: str,
    speculator: Path,
    adapter: Path | None,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    backend: str = "auto",
    threads: int | None = None,
) -> dict[str, Any]:
    """What the speculator is worth on ``prompts`` (the first 64), greedy, every draft verified whole:
    ``acceptance_length``, tokens of a step, 1 without a speculator; ``accepted_per_position``, of the drafts that had a
    position, the share of which it was accepted; ``drafter_share``, of the step's seconds those in the drafter."""
    opened, _ = open_backend(backend, threads or usable_cores())
    model = load_model(path, opened)
    asked = [list(prompt) for prompt in prompts[:DRAFT_PROMPTS]]
    room = min(model.spec.context_length - max(map(len, asked)), max_tokens)
    length = read_config(speculator).positions
    drafter, _ = open_turbo_drafter(
        speculator,
        model,
        opened,
        target_name=name,
        max_sequences=RUNNING,
        max_tokens=max(map(len, asked)) + room + length,
    )
    params = SamplingParams(temperature=0.0, max_tokens=max(1, room), seed=0)
    found = acceptance(
        model, opened, drafter, asked, params,
        length=drafter.longest, eos_ids=eos_ids(path, model.config), running=RUNNING, adapter=adapter,
    )  # fmt: skip
    return {
        "prompts": len(asked),
        "tokens": found.tokens,
        "steps": found.steps,
        "acceptance_length": found.length,
        "accepted_per_position": found.accepted_per_position,
        "drafter_share": found.drafter_seconds / (found.drafter_seconds + found.step_seconds),
    }
