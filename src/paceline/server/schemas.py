"""Request bodies: OpenAI's names and meanings, plus vLLM's extra sampling parameters.

Types are strict (``"0.5"`` is not a number) and unknown names are errors. ``null`` means the default. Ranges of the
sampling parameters are checked once, by ``SamplingParams.validate``, not here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from paceline.engine.messages import LatencyClass
from paceline.server.parameters import NO_EFFECT, NOT_SUPPORTED, screen, screen_structure
from paceline.server.problems import ApiError, from_validation

MAX_STOP_STRINGS = 64
MAX_PROMPTS = 1024
MAX_CHOICES = 1024

Prompt = str | list[str] | list[int] | list[list[int]]
Count = Annotated[int, Field(ge=-(2**31), lt=2**31)]


def _strings(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _all(value: list[Any], kind: type) -> bool:
    return all(type(item) is kind for item in value)


def _prompt(value: Any) -> Prompt:
    """Checked by hand: a union of list types would report every token of a long prompt once for each alternative."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        if len(value) > MAX_PROMPTS and not _all(value, int):
            raise ValueError(f"at most {MAX_PROMPTS} prompts go into one request")
        if _all(value, str) or _all(value, int):
            return value
        if _all(value, list) and all(item and _all(item, int) for item in value):
            return value
    raise ValueError("must be a text, a list of texts, a list of token ids, or a list of lists of token ids, not empty")


def _logit_bias(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    try:
        return {int(token): bias for token, bias in value.items()}
    except ValueError:
        raise ValueError("keys must be token ids") from None


def _content(value: Any) -> Any:
    """Text of a message; a list of text parts is joined, other kinds of parts are refused by their name."""
    if not isinstance(value, list):
        return value
    texts: list[str] = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "input_text") or not isinstance(part.get("text"), str):
            raise ValueError(f"only parts of the form {{'type': 'text', 'text': ...}} are supported, not {kind!r}")
        texts.append(part["text"])
    return "\n".join(texts)


Strings = Annotated[list[str], BeforeValidator(_strings, json_schema_input_type=str | list[str])]
PromptField = Annotated[Any, BeforeValidator(_prompt), WithJsonSchema({
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ]
})]  # fmt: skip
LogitBias = Annotated[dict[int, float], BeforeValidator(_logit_bias, json_schema_input_type=dict[str, float])]
Choices = Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
Content = Annotated[str, BeforeValidator(_content, json_schema_input_type=str | list[dict[str, Any]])]


class Body(BaseModel):
    """A request body: strict types, no unknown names."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

    model: str | None = None
    adapter_id: str | None = None  # LoRAX's name for an adapter; ``model`` does the same


class StreamOptions(BaseModel):
    """What a stream carries beside text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False  # OpenAI pads chunks with it; no effect


class SpeculativeBody(BaseModel):
    """What a request says about speculation. Ranges are checked by ``Speculative.validate``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    enabled: bool = True
    max_draft: Count | None = None
    drafters: list[str] | None = None
    report: bool = False

    @model_validator(mode="before")
    @classmethod
    def _null_means_the_default(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if item is not None or key not in cls.model_fields}


class StructuredOutputs(BaseModel):
    """What the output must look like."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    choice: Choices | None = None

    @model_validator(mode="before")
    @classmethod
    def _screen(cls, value: Any) -> Any:
        return screen_structure(value)


class SamplingBody(Body):
    """What completions and chat completions have in common."""

    n: Count = 1
    min_tokens: Count = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: Count = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: LogitBias | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: Annotated[Strings, Field(max_length=MAX_STOP_STRINGS)] = []
    stop_token_ids: list[Count] = []
    bad_words: list[str] = []
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    prompt_logprobs: Count | None = None
    return_tokens_as_token_ids: bool = False
    guided_choice: Choices | None = None
    structured_outputs: StructuredOutputs = StructuredOutputs()
    speculative: SpeculativeBody | None = None
    store: bool = True  # false: the text is not kept to learn from, see --learn
    stream: bool = False
    stream_options: StreamOptions | None = None
    priority: Count = 0
    latency_class: LatencyClass = "interactive"


class CompletionRequest(SamplingBody):
    """Body of ``/v1/completions``."""

    prompt: PromptField
    max_tokens: Count = 16
    echo: bool = False
    logprobs: Count | None = None
    add_special_tokens: bool = True


class ChatMessage(BaseModel):
    """One turn. ``developer`` is given to the template as ``system``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None
    name: str | None = None
    reasoning_content: str | None = None
    # Parts of an answer that clients send back unchanged; only their empty values mean nothing.
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None


class TemplateBody(Body):
    """How messages become a prompt."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template_kwargs: dict[str, Any] = {}


class ChatCompletionRequest(SamplingBody, TemplateBody):
    """Body of ``/v1/chat/completions``."""

    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: Count | None = None


class TokenizeCompletionRequest(Body):
    """Body of ``/tokenize`` with a text."""

    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


class TokenizeChatRequest(TemplateBody):
    """Body of ``/tokenize`` with messages."""

    return_token_strs: bool = False


class DetokenizeRequest(Body):
    """Body of ``/detokenize``."""

    tokens: list[Count]


class LoadAdapterBody(BaseModel):
    """Body of ``/v1/load_lora_adapter``, with vLLM's names."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    lora_name: Annotated[str, Field(min_length=1)]
    lora_path: Annotated[str, Field(min_length=1)]
    load_inplace: bool = False
    lora_int_id: Count | None = None  # vLLM numbers adapters by it; no effect


class UseSpeculatorBody(BaseModel):
    """Body of ``/v1/speculator/use``. ``version`` 0: the speculator that the server was started with."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: Annotated[int, Field(ge=0, lt=2**31)]


class UnloadAdapterBody(BaseModel):
    """Body of ``/v1/unload_lora_adapter``, with vLLM's names."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    lora_name: Annotated[str, Field(min_length=1)]
    lora_int_id: Count | None = None  # no effect


B = TypeVar("B", bound=BaseModel)


def decode_json(raw: bytes | bytearray) -> dict[str, Any]:
    """The JSON object in a request body."""
    try:
        data = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"The request body is not valid JSON: {error}."
        raise ApiError(400, message, code="invalid_json") from None
    if not isinstance(data, dict):
        raise ApiError(400, "The request body must be a JSON object.", code="invalid_json")
    return data


def parse(schema: type[B], data: dict[str, Any]) -> B:
    """``data`` as a ``schema``. Raises ``ApiError`` (400) that names what is wrong."""
    own = frozenset(schema.model_fields)
    try:
        return schema.model_validate(screen(data, own))
    except ValidationError as error:
        raise from_validation(error, own | NO_EFFECT.keys() | NOT_SUPPORTED.keys()) from None
