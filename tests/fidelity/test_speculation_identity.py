"""Greedy text of the default model is the same, token for token, with speculation on and off.

Over two hundred real prompts: chat, edits, summaries, retrieval, translation, arithmetic, code, entities as JSON.
Each is written once without drafts; then drafters x batch sizes x states of the prefix cache x sizes of a step share
the prompts, so that any two settings meet somewhere. These configurations verify every proposal, good or bad, which no
measured cost would allow; the last test has the controller that users have.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import chain, combinations, product, zip_longest

import pytest
from default_model_speculation import Case, Target, serve

from paceline import LLM
from paceline.engine.messages import EngineStats
from paceline.speculation.controller import Controller

pytestmark = pytest.mark.model

#: Workload: (prompts, longest prompt in tokens, tokens to write). Texts that repeat their prompt are written longer.
WORKLOADS = {
    "chat": (30, 256, 24),
    "edit": (30, 256, 40),
    "translation": (30, 256, 24),
    "gsm8k": (40, 256, 24),
    "human_eval": (30, 256, 32),
    "ner": (32, 450, 40),
    "summarization": (6, 450, 32),
    "rag": (4, 720, 32),
}
NUM_CHOICES = 40

DRAFTERS = {
    "suffix": ("suffix",),
    "ngram": ("ngram",),
    "grammar": ("grammar",),
    "model": ("model",),
    "all": ("grammar", "suffix", "ngram", "model"),
    "merged": ("suffix", "ngram"),
}
BATCHES = {1: 5, 8: 14, 32: 36}  # sequences in a step: prompts
CACHES = ("off", "cold", "warm")
STEP_ROWS = (7, 64, 512)
SHORT = 140  # tokens of a prompt that is read in steps of 7 rows, or kept in a cache that is too small
LONG = 10_000
MEDIUM = 300  # of one that every request reads for itself, or that is read twice
CROWDED_BLOCKS = {7: 13, 64: 40, 512: 100}  # by rows of a step: how fast prompts come in


@dataclass(frozen=True)
class Configuration:
    """``crowded``: the KV cache is too small for the batch, and later requests preempt earlier ones."""

    drafter: str
    batch: int
    cache: str
    max_rows: int
    crowded: bool

    def __str__(self) -> str:
        return f"{self.drafter}-{self.batch}-{self.cache}-{self.max_rows}{'-crowded' * self.crowded}"

    @property
    def longest(self) -> int:
        if self.max_rows == min(STEP_ROWS) or self.crowded:
            return SHORT
        return MEDIUM if self.cache == "off" or self.drafter == "model" else LONG


def configurations() -> list[Configuration]:
    """Latin squares: each drafter with each batch size, cache state and step size, and each pair of these."""
    return [
        Configuration(
            drafter,
            batch,
            CACHES[(b + d) % 3],
            STEP_ROWS[(b + 2 * d) % 3],
            crowded=batch == (32 if drafter == "merged" else (32, 8)[d % 2]),
        )
        for (d, drafter), (b, batch) in product(enumerate(DRAFTERS), enumerate(BATCHES))
    ]


CONFIGURATIONS = configurations()


class Deck:
    """Deals the cases in turn; who wants short ones leaves the others for the next."""

    def __init__(self, cases: list[Case]) -> None:
        self._cases = deque(cases)

    def deal(self, count: int, longest: int) -> list[Case]:
        dealt = [case for case in self._cases if len(case.prompt_ids) <= longest][:count]
        for case in dealt:
            self._cases.remove(case)
        self._cases.extend(dealt)
        return dealt


@dataclass
class Prompts:
    """All cases, what each configuration serves, and the text of each case without speculation."""

    plan: dict[Configuration, list[Case]]
    texts: dict[tuple[str, int], list[int]]


@pytest.fixture(scope="module")
def prompts(target: Target) -> Prompts:
    sets = [target.cases(name, count, longest, max_tokens=most) for name, (count, longest, most) in WORKLOADS.items()]
    free = Deck([case for row in zip_longest(*sets) for case in row if case is not None])
    choices = Deck(target.choice_cases(NUM_CHOICES))
    plan: dict[Configuration, list[Case]] = {}
    for configuration in CONFIGURATIONS:
        count, drafters = BATCHES[configuration.batch], DRAFTERS[configuration.drafter]
        chosen = 0 if "grammar" not in drafters else count if len(drafters) == 1 else count // 4
        plan[configuration] = choices.deal(chosen, LONG) + free.deal(count - chosen, configuration.longest)
    cases = {case.name: case for case in chain.from_iterable(plan.values())}
    engine = target.engine()
    outcomes = serve(engine, [case.request() for case in cases.values()])
    assert engine.drafting is None and engine.stats().draft_tokens == 0
    return Prompts(plan, {key: outcome.token_ids for key, outcome in outcomes.items()})


def test_every_two_settings_meet_over_at_least_two_hundred_prompts(prompts: Prompts) -> None:
    sides = [list(DRAFTERS), list(BATCHES), CACHES, STEP_ROWS]
    settings = [(c.drafter, c.batch, c.cache, c.max_rows) for c in CONFIGURATIONS]
    for (i, left), (j, right) in combinations(enumerate(sides), 2):
        assert {(s[i], s[j]) for s in settings} == set(product(left, right))
    assert {c.drafter for c in CONFIGURATIONS if c.crowded} == set(DRAFTERS)
    assert {c.cache for c in CONFIGURATIONS if c.crowded} == set(CACHES)
    assert len({case.prompt_ids for cases in prompts.plan.values() for case in cases}) >= 200
    assert {case.name.split("/")[0] for cases in prompts.plan.values() for case in cases} == {*WORKLOADS, "choice"}


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_greedy_text_is_that_of_decoding_without_drafts(
    configuration: Configuration, target: Target, prompts: Prompts
) -> None:
    drafters = target.drafters(*DRAFTERS[configuration.drafter], merging=configuration.drafter == "merged")
    engine = target.engine(
        drafters.controller(),
        max_running=min(configuration.batch, configuration.max_rows),
        max_rows=configuration.max_rows,
        kv_blocks=CROWDED_BLOCKS[configuration.max_rows] if configuration.crowded else 800,
        prefix_cache=configuration.cache != "off",
    )
    requests = [case.request() for case in prompts.plan[configuration]]
    urgent = len(requests) // 2 if configuration.crowded else 0
    for _ in range(2 if configuration.cache == "warm" else 1):
        outcomes = serve(engine, requests[urgent:], requests[:urgent])
        texts = {key: outcome.token_ids for key, outcome in outcomes.items()}
        assert texts == {key: prompts.texts[key] for key in texts} and len(texts) == len(requests)
        drafters.check_nothing_is_kept()
    stats = engine.stats()
    assert (stats.prefix_cache_hits > 0) == (configuration.cache == "warm") or configuration.cache == "cold"
    assert (stats.preemptions > 0) == configuration.crowded
    check_drafts(stats, DRAFTERS[configuration.drafter])


def check_drafts(stats: EngineStats, names: tuple[str, ...]) -> None:
    """Drafts were really verified, and what was verified could have gone wrong."""
    found = {counters.drafter: counters for counters in stats.drafters}
    assert set(found) == set(names)
    for name, counters in found.items():
        if name == "grammar":  # forced tokens cannot be wrong
            assert counters.accepted_tokens == counters.draft_tokens > 0
        else:
            assert 0 < counters.accepted_tokens < counters.draft_tokens


def test_the_controller_that_users_get_changes_no_text(target: Target, prompts: Prompts) -> None:
    """It decides by measured time: which drafts are verified differs from run to run. The second round finds the
    answers of the first among the recent ones."""
    cases = [case for one in CONFIGURATIONS if one.batch == 8 for case in prompts.plan[one]]
    with LLM() as llm:
        drafting = llm._engine.drafting
        assert drafting is not None and type(drafting.controller) is Controller and llm.info.backend == "cpu"
        assert tuple(llm.info.drafters) == drafting.controller.names == ("grammar", "suffix", "turbo")
        assert drafting.controller.costs is not None
        for batch, count in ((32, 40), (8, 16), (1, 4)):
            for start in range(0, count, batch):
                some = cases[start : start + batch]
                outputs = llm.generate([list(case.prompt_ids) for case in some], [case.params for case in some])
                for case, output in zip(some, outputs, strict=True):
                    assert output.outputs[0].token_ids == prompts.texts[case.name, 0], case.name
        stats = llm.stats
        assert stats.accepted_tokens > 0 and set(stats.decisions) == {"none", "grammar", "suffix", "turbo"}
        assert not drafting.controller._tracks
