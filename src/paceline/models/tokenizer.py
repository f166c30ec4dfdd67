"""Text <-> token ids, and chat messages -> prompt text. Light: imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from paceline.errors import InvalidRequestError, ModelLoadError
from paceline.models.chat_template import ChatTemplate


class Tokenizer:
    """A model's tokenizer.

    ``backend``: the ``tokenizers.Tokenizer`` that does the work. ``special_tokens``: text by role (``bos_token``,
    ``eos_token``, ``unk_token``, ``pad_token``). ``chat_templates``: Jinja sources by name; ``default`` is used,
    ``tool_use`` instead of it where a request brings tools and the model has one.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str] | None = None,
        eos_token_ids: Iterable[int] = (),
        chat_templates: Mapping[str, str] | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.special_tokens = dict(special_tokens or {})
        self.chat_templates = dict(chat_templates or {})
        self.bos_token_id = self._role_id("bos_token")
        eos = self._role_id("eos_token")
        self.eos_token_ids = frozenset(eos_token_ids) | (frozenset() if eos is None else {eos})
        self._templates: dict[str, ChatTemplate] = {}

    def _role_id(self, role: str) -> int | None:
        text = self.special_tokens.get(role)
        return None if text is None else self.token_to_id(text)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Tokens that ``skip_special_tokens`` leaves out of the text."""
        return frozenset(i for i, token in self.backend.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        added = self.backend.get_added_tokens_decoder()
        return max(int(self.backend.get_vocab_size(with_added_tokens=True)), max(added, default=-1) + 1)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of ``text``. Special tokens written out in the text become those tokens."""
        try:
            ids: list[int] = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise _encode_error(text, error) from error
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of ``ids``; ids outside the vocabulary are left out."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def id_to_token(self, token_id: int) -> str | None:
        """The vocabulary's own spelling of a token (``Ġthe``); None outside the vocabulary."""
        token: str | None = self.backend.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        return token

    def token_to_id(self, token: str) -> int | None:
        """Id of a token spelt as in the vocabulary."""
        token_id: int | None = self.backend.token_to_id(token)
        return token_id

    @property
    def has_chat_template(self) -> bool:
        return bool(self.chat_templates)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt for ``messages``, to be encoded with ``add_special_tokens=False``. ``chat_template`` replaces the
        model's own; ``kwargs`` (``continue_final_message``, ``documents``, ``enable_thinking``, ...) go to it.

        Raises ``InvalidRequestError``: no template, or the template refuses the messages."""
        source = self._choose_template(bool(tools)) if chat_template is None else chat_template
        template = self._templates.get(source)
        if template is None:
            template = ChatTemplate(source, self.special_tokens)
            if chat_template is None:
                self._templates[source] = template
        return template.render(messages, add_generation_prompt=add_generation_prompt, tools=tools, **kwargs)

    def _choose_template(self, tools: bool) -> str:
        templates = self.chat_templates
        if not templates:
            raise InvalidRequestError(
                "this model has no chat template (a base model?): use the completions API, or give a chat template"
            )
        if tools and "tool_use" in templates:
            return templates["tool_use"]
        if "default" in templates:
            return templates["default"]
        if len(templates) == 1:
            return next(iter(templates.values()))
        raise InvalidRequestError(f"the model has chat templates {sorted(templates)} and none is the default")


def _encode_error(text: str, error: Exception) -> Exception:
    """``tokenizers`` calls a lone surrogate, which JSON can carry, a wrong type."""
    try:
        text.encode()
    except UnicodeEncodeError as surrogate:
        return InvalidRequestError(f"the text is not valid Unicode: {surrogate}")
    return error


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder or a ``.gguf`` file. Raises ``ModelLoadError``."""
    path = Path(path)
    if path.suffix == ".gguf":
        from paceline.models.tokenizer_gguf import gguf_tokenizer

        return gguf_tokenizer(path)
    if path.is_dir():
        from paceline.models.tokenizer_folder import folder_tokenizer

        return folder_tokenizer(path)
    raise ModelLoadError(f"{path} is neither a folder nor a .gguf file")


def add_bos_eos(backend: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> None:
    """Makes ``encode(..., add_special_tokens=True)`` put ``bos`` before and ``eos`` after a text; None: nothing."""
    around = [token for token in (bos, eos) if token is not None]
    single = [*([bos] if bos else []), "$A", *([eos] if eos else [])]
    pair = [*single, *(f"{part}:1" for part in [*([bos] if bos else []), "$B", *([eos] if eos else [])])]
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, backend.token_to_id(token)) for token in around]
    )


def ids_of(value: Any) -> Collection[int]:
    """Token ids of a config entry that is an id, a list of ids, or absent."""
    if value is None:
        return ()
    return [int(item) for item in value] if isinstance(value, list | tuple) else [int(value)]
