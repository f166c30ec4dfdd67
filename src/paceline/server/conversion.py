"""From a request body to what the engine takes: ``SamplingParams``, token ids, ``Request``.

Also for whoever takes OpenAI bodies without HTTP (offline batches). Nothing here waits or needs an event loop.

Defaults are OpenAI's, whatever the model's ``generation_config.json`` recommends: temperature 1, top_p 1, 16 new
tokens for a completion, up to the context's end for a chat.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec

from paceline.engine.messages import EngineReady, Request
from paceline.errors import InvalidRequestError
from paceline.models.tokenizer import Tokenizer
from paceline.sampling.bad_words import bad_words_ids
from paceline.sampling.choices import choice_ids
from paceline.sampling.params import SamplingParams
from paceline.sampling.speculative import Speculative
from paceline.server.problems import ApiError
from paceline.server.schemas import ChatCompletionRequest, CompletionRequest, SamplingBody, TemplateBody

_SAME_NAME = (
    "n", "min_tokens", "temperature", "top_p", "top_k", "min_p", "typical_p", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "logit_bias", "seed", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens",
    "prompt_logprobs",
)  # fmt: skip
# Parameters of their own, or not for a client to choose.
_NOT_FOR_TEMPLATES = frozenset(
    ("messages", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message")
)


def completion_params(body: CompletionRequest, tokenizer: Tokenizer, vocab_size: int) -> SamplingParams:
    """Sampling parameters of a completion, validated. ``max_tokens=0`` is allowed with ``echo`` only (it scores the
    prompt): the engine then makes one token that nobody sees (see ``only_scores``)."""
    prompt_logprobs = body.prompt_logprobs
    if body.echo and body.logprobs is not None:
        prompt_logprobs = max(body.logprobs, prompt_logprobs or 0)
    only = only_scores(body)
    params = _params(body, 1 if only else body.max_tokens, body.logprobs, prompt_logprobs)
    params = _complete(params, tokenizer, vocab_size)
    return msgspec.structs.replace(params, ignore_eos=True, stop=(), stop_token_ids=()) if only else params


def only_scores(body: CompletionRequest) -> bool:
    """Whether only the prompt's own log probabilities are wanted."""
    return body.echo and body.max_tokens == 0


def chat_params(body: ChatCompletionRequest, tokenizer: Tokenizer, vocab_size: int) -> SamplingParams:
    """Sampling parameters of a chat completion, validated."""
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs to be true", param="top_logprobs")
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return _complete(_params(body, max_tokens, logprobs, body.prompt_logprobs), tokenizer, vocab_size)


def _params(
    body: SamplingBody, max_tokens: int | None, logprobs: int | None, prompt_logprobs: int | None
) -> SamplingParams:
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError("stream_options needs stream to be true", param="stream_options")
    if body.stream and body.prompt_logprobs is not None:
        raise InvalidRequestError("prompt_logprobs is not available in a stream", param="prompt_logprobs")
    fields: dict[str, Any] = {name: getattr(body, name) for name in _SAME_NAME}
    fields.update(max_tokens=max_tokens, logprobs=logprobs, prompt_logprobs=prompt_logprobs)
    fields.update(stop=tuple(body.stop), stop_token_ids=tuple(body.stop_token_ids), bad_words=tuple(body.bad_words))
    return SamplingParams(**fields, choice=_choice(body), speculative=_speculative(body))


def _choice(body: SamplingBody) -> tuple[str, ...]:
    """The texts of which the output is one; vLLM has two names for them."""
    old, new = body.guided_choice, body.structured_outputs.choice
    if old is not None and new is not None:
        raise InvalidRequestError(
            "guided_choice and structured_outputs.choice are the same: give one of them", param="guided_choice"
        )
    return tuple(old or new or ())


def _speculative(body: SamplingBody) -> Speculative | None:
    wish = body.speculative
    if wish is None:
        return None
    drafters = None if wish.drafters is None else tuple(wish.drafters)
    return Speculative(enabled=wish.enabled, max_draft=wish.max_draft, drafters=drafters, report=wish.report)


def _complete(params: SamplingParams, tokenizer: Tokenizer, vocab_size: int) -> SamplingParams:
    params.validate(vocab_size)
    ids = {}
    if params.bad_words:
        ids["bad_words_ids"] = bad_words_ids(params.bad_words, tokenizer)
    if params.choice:
        ids["choice_ids"] = choice_ids(params.choice, tokenizer)
    return msgspec.structs.replace(params, **ids) if ids else params


def chat_prompt(body: TemplateBody, tokenizer: Tokenizer) -> str:
    """The messages in the form that the model was trained on."""
    if body.continue_final_message and body.add_generation_prompt and "add_generation_prompt" in body.model_fields_set:
        raise InvalidRequestError(
            "add_generation_prompt and continue_final_message exclude each other", param="continue_final_message"
        )
    for index, turn in enumerate(body.messages):
        if turn.content is None and not (turn.role == "assistant" and turn.reasoning_content):
            raise InvalidRequestError(f"messages[{index}].content is missing", param=f"messages[{index}].content")
    for name in _NOT_FOR_TEMPLATES & body.chat_template_kwargs.keys():
        raise InvalidRequestError(f"chat_template_kwargs must not contain '{name}'", param="chat_template_kwargs")
    messages = [{"content": "", **message.model_dump(exclude_none=True)} for message in body.messages]
    for message in messages:
        if message["role"] == "developer":
            message["role"] = "system"
    return tokenizer.apply_chat_template(
        messages,
        add_generation_prompt=body.add_generation_prompt and not body.continue_final_message,
        continue_final_message=body.continue_final_message,
        **body.chat_template_kwargs,
    )


def chat_prompt_ids(body: TemplateBody, tokenizer: Tokenizer) -> list[int]:
    """Token ids of the messages. Templates write special tokens themselves, so none are added by default."""
    return tokenizer.encode(chat_prompt(body, tokenizer), body.add_special_tokens)


def prompts_of(body: CompletionRequest) -> list[str | list[int]]:
    """The prompts of a completion request, as texts or token ids."""
    prompt = body.prompt
    if isinstance(prompt, str) or type(prompt[0]) is int:
        return [prompt]
    return list(prompt)


def encode_prompts(
    prompts: Sequence[str | list[int]], tokenizer: Tokenizer, vocab_size: int, add_special_tokens: bool
) -> list[list[int]]:
    """Token ids of each prompt; ids from the client are checked against the vocabulary."""
    return [
        tokenizer.encode(prompt, add_special_tokens)
        if isinstance(prompt, str)
        else check_ids(prompt, vocab_size, "prompt")
        for prompt in prompts
    ]


def check_ids(ids: list[int], vocab_size: int, param: str) -> list[int]:
    """``ids``, when all of them are in the vocabulary. Raises ``InvalidRequestError``."""
    if ids and (min(ids) < 0 or max(ids) >= vocab_size):
        bad = next(token for token in ids if not 0 <= token < vocab_size)
        raise InvalidRequestError(f"{param}: token id {bad} is not in the vocabulary of {vocab_size}", param=param)
    return ids


def check_drafters(params: SamplingParams, ready: EngineReady) -> None:
    """Refuses a drafter that the engine does not have, with those it has."""
    if params.speculative is not None:
        params.speculative.check_drafters(ready.drafters)


def check_length(prompt_ids: Sequence[int], params: SamplingParams, ready: EngineReady, param: str) -> None:
    """Refuses an empty prompt, and one that leaves no room for what was asked, with the numbers."""
    length, limit = len(prompt_ids), ready.context_length
    if length == 0:
        raise InvalidRequestError("the prompt is empty: it has no tokens", param=param)
    wanted = params.max_tokens or 1
    if length + wanted <= limit:
        return
    message = f"The model's context length is {limit} tokens; the prompt has {length}"
    if length < limit:
        message += f" and {wanted} new ones were asked for: shorten the prompt or lower max_tokens."
    else:
        message += ", which leaves no room for an answer: shorten the prompt."
    raise ApiError(400, message, param=param, code="context_length_exceeded")


def to_request(
    request_id: str,
    prompt_ids: list[int],
    params: SamplingParams,
    body: SamplingBody,
    arrival_time: float,
    adapter: str | None = None,
) -> Request:
    """One prompt as the engine takes it, for ``adapter`` or the base model (None); a seed is drawn when the client gave
    none."""
    if params.seed is None:
        params = msgspec.structs.replace(params, seed=secrets.randbits(63))
    return Request(
        request_id=request_id,
        prompt_ids=prompt_ids,
        params=params,
        arrival_time=arrival_time,
        adapter=adapter,
        priority=body.priority,
        latency_class=body.latency_class,
    )
