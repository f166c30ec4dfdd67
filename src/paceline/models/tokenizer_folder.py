"""The tokenizer of a Hugging Face folder, with the settings that ``transformers`` would apply."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from paceline.errors import ModelLoadError
from paceline.models.checkpoint_files import read_json
from paceline.models.sentencepiece import read_model_file, sentencepiece_backend
from paceline.models.tokenizer import Tokenizer, add_bos_eos, ids_of

_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def folder_tokenizer(folder: Path) -> Tokenizer:
    """Reads ``tokenizer.json``, or builds the tokenizer from ``tokenizer.model`` (sentencepiece). Raises
    ``ModelLoadError`` where the folder has neither."""
    settings = _json(folder / "tokenizer_config.json")
    roles = {role: text for role in _ROLES if (text := _text(settings.get(role))) is not None}
    special_map = _json(folder / "special_tokens_map.json")
    for role in _ROLES:
        if role not in roles and (text := _text(special_map.get(role))) is not None:
            roles[role] = text
    backend = _backend(folder, settings)
    _add_tokens(backend, settings)
    if not (folder / "tokenizer.json").is_file():  # else the file has the last word on what stands around a text
        bos = roles.get("bos_token") if settings.get("add_bos_token", True) else None
        add_bos_eos(backend, bos, roles.get("eos_token") if settings.get("add_eos_token") else None)
    eos: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        eos.update(ids_of(_json(folder / name).get("eos_token_id")))
        if eos:
            break
    return Tokenizer(backend, special_tokens=roles, eos_token_ids=eos, chat_templates=_chat_templates(folder, settings))


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is not there."""
    return dict(read_json(path)) if path.is_file() else {}


def _text(token: Any) -> str | None:
    """A token written as a string or as an ``AddedToken`` object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _backend(folder: Path, settings: dict[str, Any]) -> tokenizers.Tokenizer:
    fast = folder / "tokenizer.json"
    if fast.is_file():
        try:
            return tokenizers.Tokenizer.from_file(str(fast))
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelLoadError(f"cannot read {fast}: {error}") from error
    pieces = folder / "tokenizer.model"
    if pieces.is_file():
        try:
            return _from_pieces(pieces, settings)
        except ModelLoadError:  # not BPE: leave it to transformers
            return _through_transformers(folder)
    if any((folder / name).is_file() for name in ("vocab.json", "vocab.txt", "tekken.json")):
        return _through_transformers(folder)
    raise ModelLoadError(f"{folder} has no tokenizer: neither tokenizer.json nor tokenizer.model nor vocab.json")


def _from_pieces(path: Path, settings: dict[str, Any]) -> tokenizers.Tokenizer:
    pieces = read_model_file(path)
    if settings.get("add_prefix_space") is False:
        pieces = replace(pieces, space_prefix="never")
    elif pieces.space_prefix == "first" and settings.get("legacy"):
        pieces = replace(pieces, space_prefix="always")
    return sentencepiece_backend(pieces)


def _through_transformers(folder: Path) -> tokenizers.Tokenizer:
    """For folders without ``tokenizer.json``: ``transformers`` builds it (slow to import, so only here)."""
    from transformers import AutoTokenizer

    try:
        backend: tokenizers.Tokenizer = AutoTokenizer.from_pretrained(str(folder)).backend_tokenizer
    except Exception as error:
        raise ModelLoadError(
            f"{folder} has no tokenizer.json and its tokenizer cannot be converted: {error} "
            "(a sentencepiece model needs `pip install sentencepiece`)"
        ) from error
    return backend


def _add_tokens(backend: tokenizers.Tokenizer, settings: dict[str, Any]) -> None:
    """Tokens that only ``tokenizer_config.json`` knows of, in the order of their ids."""
    known = backend.get_added_tokens_decoder()
    declared = settings.get("added_tokens_decoder") or {}
    for token_id, token in sorted(declared.items(), key=lambda item: int(item[0])):
        if int(token_id) in known or not isinstance(token, dict):
            continue
        options = {
            key: token[key] for key in ("single_word", "lstrip", "rstrip", "normalized", "special") if key in token
        }
        backend.add_tokens([AddedToken(token["content"], **options)])


def _chat_templates(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """``chat_template.jinja`` and ``additional_chat_templates/`` win over the entry in ``tokenizer_config.json``."""
    entry = settings.get("chat_template")
    templates: dict[str, str] = {}
    if isinstance(entry, str):
        templates["default"] = entry
    elif isinstance(entry, list):
        templates.update((item["name"], item["template"]) for item in entry)
    for path in [folder / "chat_template.jinja", *sorted((folder / "additional_chat_templates").glob("*.jinja"))]:
        if path.is_file():
            name = "default" if path.name == "chat_template.jinja" else path.stem
            templates[name] = path.read_text(encoding="utf-8")
    legacy = _json(folder / "chat_template.json").get("chat_template")
    if isinstance(legacy, str):
        templates.setdefault("default", legacy)
    return templates
