"""SPEED-Bench's qualitative split: 11 categories of 80 prompts each, chosen to differ from each other.

Candidates of a category are embedded and the summed cosine similarity over pairs is made small (``diversity.py``). The
choice takes minutes, so its keys are kept in the user's cache, under a name made of all that it depends on.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paceline.bench.speculation.speed_bench.candidates import Candidates, read_candidates, restricted
from paceline.bench.speculation.speed_bench.diversity import choose_diverse
from paceline.bench.speculation.speed_bench.embeddings import Embedder
from paceline.bench.speculation.workloads import Conversation
from paceline.models.cache import cache_folder

PROMPTS = 80  # of a category, as published
SHOW_SECONDS = 10.0  # between lines of progress

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class QualitativeSplit:
    """``conversations`` by category, each in an order of which every beginning is diverse. ``how``: in a sentence how
    they were chosen; ``notes``: sources that were missing, categories with too few prompts, restricted sources."""

    conversations: Mapping[str, Sequence[Conversation]]
    how: str
    notes: Sequence[str] = ()

    def first(self, count: int) -> list[Conversation]:
        """The first ``count`` of each category, categories in turns."""
        columns = [list(those[:count]) for those in self.conversations.values()]
        return [column[i] for i in range(count) for column in columns if i < len(column)]


def build_qualitative(
    data: Path,
    open_embedder: Callable[[], Embedder],
    seed: int = 0,
    prompts: int = PROMPTS,
    folder: Path | None = None,
    say: Say = print,
) -> QualitativeSplit:
    """Chooses, or finds the choice made before in ``folder`` (default: ``bench`` in the user's cache).

    ``prompts`` of a category; below 80 the first ones of the 80 are meant, so that fewer prompts are a part of more.
    Raises ``DataError`` for a data folder without the sets.
    """
    candidates = read_candidates(data, seed)
    count = max(prompts, PROMPTS)
    embedder = open_embedder()
    file = (folder or cache_folder() / "bench") / f"speed-bench-{fingerprint(candidates, embedder.name, count)}.json"
    keys = _read(file, candidates)
    for name, those in candidates.by_category.items():
        if name not in keys:
            keys[name] = _chosen(name, those, embedder, count, say)
            file.parent.mkdir(parents=True, exist_ok=True)  # after each category: what is done is kept
            file.write_text(json.dumps(keys, ensure_ascii=False, indent=1) + "\n")
    by_key = {one.key: one for those in candidates.by_category.values() for one in those}
    conversations = {name: [by_key[key] for key in keys[name][:prompts]] for name in candidates.by_category}
    total = sum(map(len, candidates.by_category.values()))
    how = f"the most diverse of {total} candidates (seed {seed}) by vectors of {embedder.reason}"
    return QualitativeSplit(conversations, how, _notes(conversations, candidates, prompts))


def fingerprint(candidates: Candidates, embedder: str, count: int) -> str:
    """What the choice depends on: every candidate's key and text (so the data and the seed), embedder, count."""
    digest = hashlib.sha256(f"{embedder} {count}".encode())
    for name, those in candidates.by_category.items():
        digest.update(f"\0{name}".encode())
        for one in those:
            digest.update("\0".join((one.key, *one.turns)).encode())
    return digest.hexdigest()[:16]


def _chosen(name: str, those: Sequence[Conversation], embedder: Embedder, count: int, say: Say) -> list[str]:
    if not those:
        return []
    last = time.monotonic()

    def show(done: int) -> None:
        nonlocal last
        if time.monotonic() - last > SHOW_SECONDS:
            last = time.monotonic()
            say(f"choosing prompts, {name}: {done} of {len(those)} texts embedded")

    vectors = embedder.embed(["\n".join(one.turns) for one in those], show)
    chosen = choose_diverse(vectors, count)
    say(f"chose {len(chosen)} of {len(those)} prompts for {name}")
    return [those[i].key for i in chosen]


def _read(file: Path, candidates: Candidates) -> dict[str, list[str]]:
    """The categories that were chosen before; without those of whose keys one is not known."""
    try:
        keys: dict[str, list[str]] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    known = {name: {one.key for one in those} for name, those in candidates.by_category.items()}
    return {name: chosen for name, chosen in keys.items() if name in known and known[name].issuperset(chosen)}


def _notes(conversations: Mapping[str, Sequence[Conversation]], candidates: Candidates, prompts: int) -> list[str]:
    notes = []
    if candidates.missing:
        notes.append(f"the data folder lacks {', '.join(candidates.missing)}: their prompts are not in the split")
    few = [f"{name} {len(those)}" for name, those in conversations.items() if len(those) < prompts]
    if few:
        notes.append(f"fewer than {prompts} prompts: {', '.join(few)}")
    limited = restricted([one.key for those in conversations.values() for one in those])
    if limited:
        notes.append(f"sources for measurement only, not to be passed on: {', '.join(limited)}")
    return notes
