"""Who answers: an engine in this process, or a running server. Both are asked the same prompts, greedily."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from paceline.bench.endpoint import Endpoint, EndpointError
from paceline.errors import PacelineError
from paceline.llm import LLM
from paceline.sampling.params import SamplingParams

TOP = 20  # most alternatives that servers give for a token without being configured for more

T = TypeVar("T")


class CannotAnswerError(PacelineError):
    """This engine has no such way to answer; the task is then left out, with this reason."""


class Answerer(Protocol):
    """Answers prompts; results are in the order of the prompts. Raises ``CannotAnswerError``."""

    @property
    def description(self) -> str: ...

    def write(self, prompts: Sequence[str], max_tokens: int, stop: Sequence[str]) -> list[str]:
        """Greedy texts, without the stop string that ended them."""
        ...

    def weigh(self, prompts: Sequence[str], options: Sequence[str]) -> list[tuple[float, ...]]:
        """Natural-log probability of each option behind each prompt."""
        ...

    def choose(self, prompts: Sequence[str], options: Sequence[str]) -> list[str]:
        """Greedy texts under a grammar that allows the options only."""
        ...

    def close(self) -> None: ...


class EngineAnswerer:
    """An engine of its own, built from fields of ``EngineOptions``."""

    def __init__(self, model: str, options: Mapping[str, Any]) -> None:
        self._llm = LLM(**{"model": model, **options})

    @property
    def description(self) -> str:
        info = self._llm.info
        return f"{info.model} on backend {info.backend}, drafters {', '.join(info.drafters) or 'none'}"

    def write(self, prompts: Sequence[str], max_tokens: int, stop: Sequence[str]) -> list[str]:
        return self._texts(prompts, SamplingParams(temperature=0.0, max_tokens=max_tokens, stop=tuple(stop)))

    def choose(self, prompts: Sequence[str], options: Sequence[str]) -> list[str]:
        return self._texts(prompts, SamplingParams(temperature=0.0, choice=tuple(options)))

    def weigh(self, prompts: Sequence[str], options: Sequence[str]) -> list[tuple[float, ...]]:
        """An option of one token that is among the likeliest is read from the first new token's alternatives, any
        other by scoring the prompt with the option behind it. Both are the same row of logits."""
        encode = self._llm.tokenizer.encode
        params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=TOP)
        tops = []
        for output in self._llm.generate(prompts, params):
            entries = output.outputs[0].logprobs
            assert entries, "one token was asked for, with alternatives"
            tops.append(dict(zip(entries[0].top_ids, entries[0].top_logprobs, strict=True)))
        found: dict[tuple[int, int], float] = {}
        missing: dict[tuple[int, int], tuple[list[int], int]] = {}
        for i, prompt in enumerate(prompts):
            before = encode(prompt)
            for j, option in enumerate(options):
                ids = encode(prompt + option)
                start = _common(before, ids)
                if start == len(before) and len(ids) == start + 1 and ids[-1] in tops[i]:
                    found[i, j] = tops[i][ids[-1]]
                else:
                    missing[i, j] = (ids, start)
        found.update(self._scored(missing))
        return [tuple(found[i, j] for j in range(len(options))) for i in range(len(prompts))]

    def close(self) -> None:
        self._llm.close()
        gc.collect()  # the next engine needs the memory

    def _texts(self, prompts: Sequence[str], params: SamplingParams) -> list[str]:
        return [output.outputs[0].text for output in self._llm.generate(prompts, params)]

    def _scored(self, missing: Mapping[tuple[int, int], tuple[list[int], int]]) -> dict[tuple[int, int], float]:
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
        scored = {}
        outputs = self._llm.generate([ids for ids, _ in missing.values()], params) if missing else []
        for place, (_, start), output in zip(missing, missing.values(), outputs, strict=True):
            entries = output.prompt_logprobs or []
            scored[place] = sum(entry.logprob for entry in entries[start:] if entry is not None)
        return scored


class ServerAnswerer:
    """A running server with OpenAI's completions route. ``fields`` go into every request, ``concurrency`` of which are
    open at a time."""

    def __init__(self, endpoint: Endpoint, model: str | None, fields: Mapping[str, Any], concurrency: int) -> None:
        self._endpoint = endpoint
        self._model = model or str(endpoint.models()[0].get("id"))
        self._fields = fields
        self._pool = ThreadPoolExecutor(concurrency)

    @property
    def description(self) -> str:
        return f"{self._model} at {self._endpoint.url}"

    def write(self, prompts: Sequence[str], max_tokens: int, stop: Sequence[str]) -> list[str]:
        body = {"max_tokens": max_tokens, "stop": list(stop)}
        return self._each(lambda prompt: str(self._complete(prompt, **body)["text"]), prompts)

    def weigh(self, prompts: Sequence[str], options: Sequence[str]) -> list[tuple[float, ...]]:
        """As lm-eval does: by echoing the prompt with the option behind it, except where all options are among the
        likeliest next tokens."""
        return self._each(lambda prompt: self._weights(prompt, options), prompts)

    def choose(self, prompts: Sequence[str], options: Sequence[str]) -> list[str]:
        structure = {"structured_outputs": {"choice": list(options)}, "max_tokens": 16}
        try:
            texts = self._each(lambda prompt: str(self._complete(prompt, **structure)["text"]), prompts)
        except EndpointError as error:
            if error.status != 400:
                raise
            raise CannotAnswerError(f"the server refuses structured_outputs.choice: {error}") from error
        bad = next((text for text in texts if text not in options), None)
        if bad is not None:
            raise CannotAnswerError(f"the server ignores structured_outputs.choice: it answered {bad!r}")
        return texts

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _each(self, ask: Callable[[str], T], prompts: Sequence[str]) -> list[T]:
        return list(self._pool.map(ask, prompts))

    def _complete(self, prompt: str, **fields: Any) -> dict[str, Any]:
        body = {"model": self._model, "prompt": prompt, "temperature": 0, **fields, **self._fields}
        answer = self._endpoint.post("/v1/completions", body)
        try:
            choice = answer["choices"][0]
            assert isinstance(choice, dict) and isinstance(choice["text"], str)
        except (KeyError, IndexError, TypeError, AssertionError) as error:
            raise EndpointError(f"{self._endpoint.url} answered a completion without a text") from error
        return choice

    def _weights(self, prompt: str, options: Sequence[str]) -> tuple[float, ...]:
        logprobs = self._complete(prompt, max_tokens=1, logprobs=TOP).get("logprobs") or {}
        tops = (logprobs.get("top_logprobs") or [None])[0] or {}
        if all(option in tops for option in options):
            return tuple(float(tops[option]) for option in options)
        return tuple(self._echoed(prompt, option) for option in options)

    def _echoed(self, prompt: str, option: str) -> float:
        """Sum over the tokens of the option: those that begin behind the prompt and before the one new token."""
        choice = self._complete(prompt + option, max_tokens=1, logprobs=1, echo=True)
        found = choice.get("logprobs")
        if not found or not choice["text"].startswith(prompt):
            raise CannotAnswerError("the server has no log probabilities of an echoed prompt (echo with logprobs)")
        end = len(prompt) + len(option)
        pairs = zip(found["text_offset"], found["token_logprobs"], strict=True)
        return float(sum(value for offset, value in pairs if value is not None and len(prompt) <= offset < end))


def _common(before: Sequence[int], ids: Sequence[int]) -> int:
    """How many tokens two texts begin with in common."""
    return next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), min(len(before), len(ids)))
