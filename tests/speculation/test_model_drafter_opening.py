"""Opening a draft model: whose tokens it must speak, what memory it gets, and what is told about it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from draft_models import View, tokens_of

from paceline.backends.base import Backend
from paceline.backends.registry import get_backend
from paceline.errors import ModelLoadError
from paceline.models.loading import load_model
from paceline.speculation.drafters.model_loading import CACHE_SHARE, Target, check_vocabulary, open_model_drafter
from tiny_tokenizer import save_tiny_tokenizer

GetFolder = Callable[[str], Path]


@pytest.fixture
def backend() -> Backend:
    return get_backend("torch")


@pytest.fixture
def folder(tiny_checkpoint: GetFolder, tmp_path: Path) -> Path:
    """A draft model with a tokenizer."""
    copy = tmp_path / "draft"
    shutil.copytree(tiny_checkpoint("smollm2"), copy)
    save_tiny_tokenizer(copy)
    return copy


@pytest.fixture
def target(tmp_path: Path) -> Target:
    """A target with the same tokenizer; only that is there of its files."""
    save_tiny_tokenizer(tmp_path)
    return Target(
        path=tmp_path, vocab_size=160, context_length=96, cache_tokens=640, cache_bytes=10**7, max_sequences=4
    )


def change_token(folder: Path, token_id: int, text: str) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    (old,) = [token for token, value in vocabulary.items() if value == token_id]
    vocabulary[text] = vocabulary.pop(old)
    file.write_text(json.dumps(content))


def test_an_opened_drafter_drafts_and_its_numbers_are_told(folder: Path, target: Target, backend: Backend) -> None:
    drafter, opened = open_model_drafter(str(folder), backend, target)
    assert len(drafter.propose([View("r", tokens_of(9))], [2])[0]) >= 1
    assert (opened.name, opened.context_length, opened.cache_tokens) == ("draft", 96, 640)
    assert opened.cache_bytes == 640 * 3 * 2 * 32 * 2, "tokens, layers, keys and values, their width, bytes of float16"
    assert opened.weights_bytes == load_model(folder, backend.sibling()).weights_bytes
    assert "folder" in opened.reason


def test_the_cache_is_a_share_of_the_targets(folder: Path, target: Target, backend: Backend) -> None:
    small = replace(target, cache_bytes=100_000)
    _, opened = open_model_drafter(str(folder), backend, small)
    assert opened.cache_tokens < 640
    assert 0.8 * CACHE_SHARE * 100_000 < opened.cache_bytes <= CACHE_SHARE * 100_000
    least = replace(target, cache_bytes=0)
    drafter, opened = open_model_drafter(str(folder), backend, least)
    assert opened.cache_tokens == opened.context_length == 16
    assert drafter.propose([View("r", tokens_of(40)), View("s", tokens_of(5))], [1, 1])[0] is None


def test_the_target_and_its_cache_are_left_alone(tiny_checkpoint: GetFolder, folder: Path, target: Target) -> None:
    backend = get_backend("torch")
    model = load_model(tiny_checkpoint("llama"), backend)
    backend.allocate_cache(model.spec.cache_spec(), [3])
    keys = [layer.data_ptr() for layer in backend.keys]
    drafter, _ = open_model_drafter(str(folder), backend, target)
    drafter.propose([View("r", tokens_of(9))], [2])
    assert [layer.data_ptr() for layer in backend.keys] == keys
    assert not any(layer.any() for layer in backend.keys)


def test_a_context_that_the_draft_model_does_not_have_is_no_error(
    folder: Path, target: Target, backend: Backend
) -> None:
    _, opened = open_model_drafter(str(folder), backend, replace(target, context_length=4096))
    assert opened.context_length == 128


def test_another_tokenizer_is_refused(folder: Path, target: Target, backend: Backend) -> None:
    change_token(folder, 55, "other")
    with pytest.raises(ModelLoadError, match="draft has another tokenizer than the target: token 55 is 'other'"):
        open_model_drafter(str(folder), backend, target)


def test_a_draft_model_without_a_tokenizer_is_refused(
    tiny_checkpoint: GetFolder, target: Target, backend: Backend, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_checkpoint("llama"), bare, ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ModelLoadError):
        open_model_drafter(str(bare), backend, target)


def test_without_tokenizers_the_vocabularies_must_have_one_size(folder: Path, target: Target) -> None:
    ids_only = replace(target, path=None)
    check_vocabulary(folder, 160, ids_only)
    with pytest.raises(ModelLoadError, match="a vocabulary of 161 tokens, the target one of 160"):
        check_vocabulary(folder, 161, ids_only)


def test_padded_vocabularies_of_one_tokenizer_go_together(folder: Path, target: Target) -> None:
    check_vocabulary(folder, 192, target)
    check_vocabulary(folder, 160, replace(target, vocab_size=256))


def test_a_model_that_is_not_there_is_said_so(target: Target, backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="nowhere"):
        open_model_drafter(str(tmp_path / "nowhere"), backend, target)
