"""From traffic to a speculator that is used only if it is better, on a language that is certain."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from toy_language import prompts, save_toy_model, successors

from paceline.learning.settings import LearnOptions, TrainerConfig
from paceline.learning.store import TextStore
from paceline.training.compare import compare
from paceline.training.learn_round import Learner

OUTPUT = 24


def texts(count: int, skip: int = 0) -> list[tuple[list[int], list[int]]]:
    """Prompts and what the target writes behind them."""
    following, made = successors(), []
    for prompt in prompts(count + skip)[skip:]:
        output = [following[prompt[-1]]]
        while len(output) < OUTPUT:
            output.append(following[output[-1]])
        made.append((prompt, output))
    return made


class World:
    def __init__(self, root: Path) -> None:
        save_toy_model(root / "target")
        self.options = LearnOptions(
            folder=str(root / "learn"), train_texts=30, train_tokens=500, judge_texts=8, steps=80, pause_s=0.01
        )
        self.store = TextStore(root / "learn" / "texts", self.options.text_bytes)
        self.target = root / "target"

    def learner(self) -> Learner:
        return Learner(
            TrainerConfig(
                options=self.options, model=str(self.target), name="toy", backend="torch", context_length=64,
                speculator=None, parent_pid=0,
            )
        )  # fmt: skip

    def traffic(self, count: int, skip: int = 0) -> None:
        for prompt, output in texts(count, skip):
            self.store.add(prompt, output)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_version_is_made_of_traffic_and_judged_by_texts_that_came_afterwards(world: World) -> None:
    learner = world.learner()
    world.traffic(20)
    assert "waits for texts" in learner.advance().state and learner.waits
    world.traffic(60, 20)
    assert "trains on" in learner.advance().state
    learner = world.learner()  # as after a restart between any two stages
    assert "trained" in learner.advance().state
    learner = world.learner()
    assert "waits for held-out texts to judge by: 0 of 8" in learner.advance().state
    world.traffic(120, 80)
    report = learner.advance()
    assert report.version == 1
    card = learner.versions.card(1)
    assert card is not None and card.judgement is not None
    judged = card.judgement
    assert judged.texts >= 8 and judged.current == 1.0 and judged.candidate > 1.3 and judged.better
    assert learner.progress.round is None and not (world.options.root / "work").exists()

    # The same speculator once more is no better: it is a version, and nobody takes it.
    learner.versions.use(1)
    world.traffic(60, 200)
    assert "trains on" in learner.advance().state
    assert learner.progress.round is not None and learner.progress.round.base == 1
    shutil.copytree(learner.versions.folder(1), learner.work / "candidate")
    learner.progress.round.trained = world.store.next_serial - 1
    world.traffic(220, 260)
    assert learner.advance().version == 2
    again = learner.versions.card(2)
    assert again is not None and again.judgement is not None
    assert again.judgement.current == again.judgement.candidate and not again.judgement.better


def test_a_round_that_keeps_failing_is_given_up(world: World) -> None:
    learner = world.learner()
    world.traffic(80)
    learner.advance()
    (learner.work / "train" / "states.json").unlink()
    for _ in range(3):
        assert learner.progress.round is not None
        with pytest.raises(Exception, match="no collected states"):
            learner.advance()
    assert learner.progress.round is None
    assert "waits for texts: 0" in learner.advance().state


def test_noise_is_not_a_gain_and_a_loss_is_none() -> None:
    random = np.random.default_rng(3)
    tokens = np.full(60, 40)
    steps = random.integers(15, 25, 60)
    noisy = steps + random.integers(-3, 4, 60)
    assert not compare(tokens, steps, noisy).better
    assert not compare(tokens, steps, steps + 2).better
    assert compare(tokens, steps, steps - 2).better
    assert not compare(np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)).better
