"""A round of learning: texts of traffic, their hidden states, a fit, and a judgement on texts that came afterwards.

Every stage leaves what the next one needs on disk, so a round goes on wherever it was interrupted.
"""

from __future__ import annotations

import gc
import logging
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from paceline.backends.base import Backend
from paceline.backends.registry import get_backend
from paceline.engine.machine import free_memory
from paceline.errors import InvalidRequestError
from paceline.learning.settings import STATES, TEXTS, VERSIONS, TrainerConfig, TrainerReport
from paceline.learning.store import Record, read_newest, read_segment, segments_of
from paceline.learning.versions import Judgement, VersionCard, Versions
from paceline.models.checkpoint import open_checkpoint
from paceline.models.families import model_spec
from paceline.models.loading import LoadedModel, load_model
from paceline.speculation.drafters.turbo_format import SpeculatorConfig, read_config, read_speculator, write_speculator
from paceline.training.architecture import default_config, default_layers, target_tables
from paceline.training.compare import CONFIDENCE, compare, steps_needed
from paceline.training.fit import FitConfig, fit
from paceline.training.regenerate import Text
from paceline.training.speculator import new_tensors
from paceline.training.states import StateReader, StateSet, collect, state_scale
from paceline.training.vocabulary import draft_vocabulary
from paceline.training.workspace import write_json

logger = logging.getLogger(__name__)

STATE_FILE = "trainer.json"
TOP = 16  # likeliest tokens that are kept of each distribution
WINDOW = 512  # known tokens that a new speculator sees
MOST_VOCABULARY = 4096
LEAST_STEPS, MOST_STEPS = 100, 2000
PASSES = 2  # over the places of the texts at which a block may begin
EVALUATIONS = 8
NEW_RATE, FURTHER_RATE = 3e-3, 5e-4  # learning rates from nothing, and from a speculator
CHOOSING_SHARE = 0.125  # of the bytes for states, for held-out texts by which a training's best step is chosen
MOST_JUDGED = 4  # times as many texts as are needed
FAILURES = 3  # of a round, after which its work is thrown away
MEMORY = 1.5  # times the model's files, for a second copy of it and what comes with it


class Round(msgspec.Struct, kw_only=True):
    """``base``: version that it goes on from, None: from nothing. ``last``: serial of the newest text at its begin.
    ``trained``: serial of the newest text when the training was over; None: it is not."""

    base: int | None
    last: int
    texts: int
    tokens: int
    trained: int | None = None
    failures: int = 0


class Progress(msgspec.Struct, kw_only=True):
    """``learned``: serial of the newest text that a completed round began with."""

    learned: int = 0
    round: Round | None = None


class Learner:
    """``advance`` does the next thing there is to do. ``waits``: there was nothing. ``stopping``: ends a training at
    its next step, with a checkpoint."""

    def __init__(self, config: TrainerConfig) -> None:
        self.config = config
        self.options = config.options
        self.texts = self.options.root / TEXTS
        self.work = self.options.root / STATES
        self.versions = Versions(self.options.root / VERSIONS)
        self.waits = False
        self.stopping = False
        self.work.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = self.options.root / STATE_FILE
        self.progress = self._read_progress()
        checkpoint = open_checkpoint(config.model)
        try:
            self._spec = model_spec(checkpoint.config)
        finally:
            checkpoint.close()

    def advance(self) -> TrainerReport:
        """One stage, and what to tell of it. Raises what prevents it; then it is tried again by the next process."""
        self.waits = False
        now = self.progress.round
        if now is None:
            return self._begin()
        try:
            return self._train(now) if now.trained is None else self._judge(now, now.trained)
        except Exception:
            now.failures += 1
            given_up = now.failures >= FAILURES
            self._keep(Progress(learned=now.last) if given_up else self.progress)
            if given_up:
                logger.error("a round failed %d times and is given up", now.failures)
            raise

    # Stages

    def _begin(self) -> TrainerReport:
        options = self.options
        new = list(read_newest(self.texts, held=False, after=self.progress.learned))
        tokens = sum(len(record.output) for record in new)
        if len(new) < options.train_texts or tokens < options.train_tokens:
            return self._wait(
                f"waits for texts: {len(new)} of {options.train_texts} and {tokens} of {options.train_tokens} tokens"
            )
        if (short := self._short_of_memory()) is not None:
            return self._wait(short)
        base = self.versions.current().version
        folder = self._folder_of(base)
        layers = default_layers(self._spec.num_layers) if folder is None else read_config(folder).layers
        shutil.rmtree(self.work, ignore_errors=True)
        limit = options.state_bytes
        states = self._collect(
            "train", read_newest(self.texts, held=False), layers, round(limit * (1 - CHOOSING_SHARE))
        )
        chosen_by = list(read_newest(self.texts, held=True))
        if chosen_by:
            self._collect("choosing", chosen_by, layers, round(limit * CHOOSING_SHARE))
        tokens = int(states.output_counts().sum())
        begun = Round(
            base=None if folder is None else base, last=_newest_serial(self.texts), texts=len(states), tokens=tokens
        )
        self._keep(Progress(learned=self.progress.learned, round=begun))
        return TrainerReport(state=f"trains on {len(states)} texts, {tokens} tokens")

    def _train(self, now: Round) -> TrainerReport:
        states = StateSet(self.work / "train")
        held = StateSet(self.work / "choosing") if (self.work / "choosing").is_dir() else None
        tables = target_tables(Path(self.config.model))
        settings = self._fit_settings(now, states)
        if now.base is None:
            config = self._new_config(states)
            tokens = draft_vocabulary(states, config.vocab_size, config.target.vocab_size)
            tensors = new_tensors(config, tokens, state_scale(states), tables, settings.seed)
        else:
            folder = self._folder_of(now.base)
            assert folder is not None
            config, tensors = read_speculator(folder)
        fitted = fit(
            states, config, tensors, tables.embedding, settings,
            folder=self.work / "fit", stop=lambda: self.stopping, held=held,
        )  # fmt: skip
        if self.stopping:
            return TrainerReport(state="stopped in a training, which goes on with the next start")
        card = {"data": "traffic", "texts": now.texts, "output_tokens": now.tokens, "base": now.base}
        told = {**card, "steps": fitted.step, "chosen_by_accepted": round(fitted.accepted, 4)}
        shutil.rmtree(self.work / "candidate", ignore_errors=True)
        write_speculator(
            self.work / "candidate", msgspec.structs.replace(config, card=told), fitted.model.tensors(), stored="q8"
        )
        now.trained = _newest_serial(self.texts)
        self._keep(self.progress)
        for name in ("train", "choosing", "fit"):
            shutil.rmtree(self.work / name, ignore_errors=True)
        return TrainerReport(state=f"trained; to be judged by {self.options.judge_texts} held-out texts that come now")

    def _judge(self, now: Round, trained: int) -> TrainerReport:
        wanted = self.options.judge_texts
        candidate = self.work / "candidate"
        if not candidate.is_dir():  # it became a version, and the process ended before it could say so
            self._keep(Progress(learned=now.last))
            return TrainerReport(state="goes on behind a round that was over")
        fresh = [one for one in read_newest(self.texts, held=True, after=trained) if len(one.output) > 1]
        if len(fresh) < wanted:
            return self._wait(f"waits for held-out texts to judge by: {len(fresh)} of {wanted}")
        if (short := self._short_of_memory()) is not None:
            return self._wait(short)
        against = self.versions.current().version
        current = self._folder_of(against)
        layers = sorted({layer for one in (current, candidate) if one is not None for layer in read_config(one).layers})
        states = self._collect("judging", fresh[: MOST_JUDGED * wanted], layers, self.options.state_bytes)
        embedding = target_tables(Path(self.config.model)).embedding
        tokens = states.output_counts() - 1
        needed = []
        for folder in (current, candidate):
            own = states if folder is None else StateSet(self.work / "judging", layers=read_config(folder).layers)
            needed.append(steps_needed(folder, own, embedding))
        gain = compare(tokens, needed[0], needed[1])
        judgement = Judgement(
            against=against,
            texts=len(states),
            tokens=int(tokens.sum()),
            current=gain.current,
            candidate=gain.candidate,
            low=gain.low,
            high=gain.high,
            confidence=CONFIDENCE,
            better=gain.better and len(states) >= wanted,
        )
        return self._publish(now, judgement)

    def _publish(self, now: Round, judgement: Judgement) -> TrainerReport:
        number = self.versions.next_number()
        card = VersionCard(
            number=number,
            made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            base=now.base,
            train_texts=now.texts,
            train_tokens=now.tokens,
            judgement=judgement,
        )
        self.versions.publish(self.work / "candidate", card)
        self._keep(Progress(learned=now.last))
        shutil.rmtree(self.work, ignore_errors=True)
        self.versions.prune(self.options.version_bytes, keep=[number])
        verdict = "better" if judgement.better else "not better by more than noise"
        figures = f"{judgement.candidate:.2f} tokens a step against {judgement.current:.2f}"
        return TrainerReport(state=f"version {number}: {figures}, {verdict}", version=number)

    # Parts

    def _collect(self, name: str, records: Iterable[Record], layers: Sequence[int], limit: int) -> StateSet:
        """Hidden states of as many texts as ``limit`` bytes hold, in the order given."""
        model, backend = self._load()
        width = 2 * len(layers) * model.spec.hidden_size
        texts: list[Text] = []
        left = limit
        for record in records:
            if len(record.prompt) + len(record.output) > self.config.context_length:
                continue
            if (
                not 0
                <= min(record.prompt + record.output)
                <= max(record.prompt + record.output)
                < model.spec.vocab_size
            ):
                continue  # of another model that had the folder before
            left -= (min(WINDOW, len(record.prompt)) + len(record.output)) * (width + 4) + len(record.output) * 6 * TOP
            if left < 0 and texts:
                break
            texts.append(Text(record.prompt, record.output))
        if not texts:
            raise InvalidRequestError(f"none of the texts in {self.texts} can be read by {self.config.name}")
        reader = StateReader(model, backend, layers, max(len(text.token_ids) for text in texts))
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        top = min(TOP, model.spec.vocab_size)
        found = collect(reader, texts, folder, layers, window=_window(model), top=top, max_bytes=limit)
        del reader, model, backend
        gc.collect()
        return found

    def _load(self) -> tuple[LoadedModel, Backend]:
        backend = get_backend("cpu", threads=1) if self.config.backend == "cpu" else get_backend(self.config.backend)
        return load_model(Path(self.config.model), backend, context_length=self.config.context_length), backend

    def _folder_of(self, version: int) -> Path | None:
        """Of the speculator that drafts as ``version``; None: 0 was no speculator."""
        if version:
            return self.versions.folder(version)
        return None if self.config.speculator is None else Path(self.config.speculator)

    def _new_config(self, states: StateSet) -> SpeculatorConfig:
        outputs = np.concatenate([states[i].token_ids[states[i].first :] for i in range(len(states))])
        return default_config(
            self._spec,
            self.config.name,
            layers=states.files.layers,
            vocab_size=min(MOST_VOCABULARY, self._spec.vocab_size, max(2048, 2 * len(np.unique(outputs)))),
            window=states.files.window,
        )

    def _fit_settings(self, now: Round, states: StateSet) -> FitConfig:
        """As many blocks as there are places for them, ``PASSES`` times."""
        counts = states.output_counts()
        anchors = int(min(32, max(4, np.median(counts))))
        texts = max(1, min(128 // anchors, len(states) - 1))
        steps = int(min(MOST_STEPS, max(LEAST_STEPS, PASSES * counts.sum() / (texts * anchors))))
        steps = self.options.steps or steps
        return FitConfig(
            steps=steps,
            texts=texts,
            anchors=anchors,
            learning_rate=NEW_RATE if now.base is None else FURTHER_RATE,
            warm_up=max(1, min(50, steps // 10)),
            evaluate_every=max(1, steps // EVALUATIONS),
            evaluate_blocks=int(min(2048, max(64, counts.sum() // 8))),
            seed=now.last,
        )

    def _short_of_memory(self) -> str | None:
        """Why a second copy of the model should not be loaded now."""
        path = Path(self.config.model)
        files = [path] if path.is_file() else [*path.glob("*.safetensors")]
        wanted, free = MEMORY * sum(file.stat().st_size for file in files), free_memory()
        if wanted <= free:
            return None
        return f"waits for memory: a training needs {wanted / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free"

    def _wait(self, why: str) -> TrainerReport:
        self.waits = True
        return TrainerReport(state=why)

    def _read_progress(self) -> Progress:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Progress)
        except FileNotFoundError:
            return Progress()
        except msgspec.DecodeError as error:
            logger.warning("%s cannot be read, learning begins anew with the texts there are: %s", self._file, error)
            return Progress()

    def _keep(self, progress: Progress) -> None:
        self.progress = progress
        write_json(self._file, msgspec.to_builtins(progress))


def _newest_serial(folder: Path) -> int:
    """Of the texts in the store; 0: it is empty."""
    for path in reversed(segments_of(folder)):
        records = read_segment(path)
        if records:
            return records[-1].serial
    return 0


def _window(model: LoadedModel) -> int:
    return max(16, min(WINDOW, model.spec.max_context))
