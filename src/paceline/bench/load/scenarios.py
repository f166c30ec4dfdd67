"""The built-in scenarios: what is asked, how long it should be, and where its texts come from."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.bench.load.lengths import Messages, TokenEstimate
from paceline.bench.prompts import DataError
from paceline.bench.speculation.entities import TASK, entity_examples, entity_questions
from paceline.bench.speculation.workloads import NAMED, load_workload, rows
from paceline.bench.text import passage

BAND = (0.75, 1.3)  # of the named prompt length: texts outside are not asked
SAMPLES = 24  # texts that the server counts
GENERATED = 2000  # texts of a scenario without data
QUESTION_SETS = ("qa", "chat", "alpaca", "alpaca_eval", "self_instruct", "arena_hard", "gsm8k")
MATCH = (
    "Give a score from 1 to 10 for how well these two people match, and explain it in two sentences. Compare what each "
    "of them looks for with what the other is like: age, place, values, interests and intentions."
)
WHY = "What happened here, and why?"


@dataclass(frozen=True, slots=True)
class Scenario:
    """``prompt_tokens`` in, ``max_tokens`` out. ``load`` reads its texts from a data folder; raises ``DataError``."""

    name: str
    title: str
    prompt_tokens: int
    max_tokens: int
    load: Callable[[Path], list[Messages]]
    task: str


@dataclass(slots=True)
class Pool:
    """Hands out prompts, each once as long as there are any; then again from the first one, which ``repeated``
    counts."""

    prompts: Sequence[Messages]
    repeated: int = 0
    _taken: int = 0

    def take(self, count: int) -> list[Messages]:
        taken = [self.prompts[(self._taken + i) % len(self.prompts)] for i in range(count)]
        self.repeated += max(0, self._taken + count - max(self._taken, len(self.prompts)))
        self._taken += count
        return taken


@dataclass(slots=True)
class Texts:
    """Prompts of one scenario, in an order that ``seed`` fixed. ``origin`` says where they are from; ``generate`` makes
    one of a number of characters where there are no files."""

    origin: str
    prompts: list[Messages]
    generate: Callable[[int, int], Messages] | None = None
    left_out: int = 0
    _pool: Pool | None = None

    def pool(self, estimate: TokenEstimate, tokens: int | None, room: int | None = None) -> Pool:
        """The texts near ``tokens`` tokens that leave an answer its place in the context (``room``: what the context
        has without the answer), to be handed out; ``left_out`` counts the others. One pool for all that ask the same
        texts of a server, or the second one to ask would find the first one's prompts in its caches.

        Raises ``DataError`` when no text fits."""
        if self._pool is None:
            near = self.fitting(estimate, tokens)
            found = [text for text in near if room is None or estimate.tokens(text) <= room]
            self.left_out = len(near) - len(found)
            if not found:
                raise DataError(
                    f"no text of {self.origin} fits the server's context, which leaves {room} tokens beside an answer: "
                    "ask for a smaller --max-tokens or start the server with a longer context"
                )
            self._pool = Pool(found)
        return self._pool

    def samples(self) -> list[Messages]:
        """Texts of different lengths, for the server to count."""
        if self.generate is None:
            return self.prompts[:SAMPLES]
        return [self.generate(-1 - number, 60 * (number + 1)) for number in range(SAMPLES)]

    def fitting(self, estimate: TokenEstimate, tokens: int | None) -> list[Messages]:
        """The texts near ``tokens`` tokens (None: all). Raises ``DataError`` when there are none."""
        if tokens is None:
            return self.prompts
        if self.generate is not None:
            size = estimate.characters_for(tokens)
            return [self.generate(number, size) for number in range(GENERATED)]
        low, high = (tokens * edge for edge in BAND)
        found = [prompt for prompt in self.prompts if low <= estimate.tokens(prompt) <= high]
        if not found:
            raise DataError(
                f"no text of {self.origin} is near {tokens} tokens ({low:.0f} to {high:.0f}; {estimate}): give other "
                "data, --rows of your own, or no data folder for generated English"
            )
        return found


def user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def matching(data: Path) -> list[Messages]:
    """Two profiles as attributes; each person with others of the file."""
    people = list(rows(_file(data, "preference_matching/profiles.jsonl")))
    try:
        cards = [(_card(person), _wishes(person)) for person in people]
    except (KeyError, TypeError) as error:
        raise DataError(f"preference_matching/profiles.jsonl does not have the expected layout: {error!r}") from error
    pairs = [(one, other) for one in range(len(cards)) for other in range(len(cards)) if one != other]
    random.Random(0).shuffle(pairs)
    return [
        user("\n\n".join((f"First person: {' '.join(cards[one])}", f"Second person: {' '.join(cards[other])}", MATCH)))
        for one, other in pairs
    ]


def _card(person: Mapping[str, Any]) -> str:
    return (
        f"{person['name']}, {person['age']}, {person['gender']}, {person['job_title']} ({person['job_industry']}), "
        f"lives in {person['dating_location']}, from {person['hometown_location']}. Interests: "
        f"{', '.join(person['interests'])}. Values: {', '.join(person['values'])}. Speaks "
        f"{', '.join(person['languages_spoken'])}. {person['religious_beliefs']}, {person['politics']}, "
        f"{person['mbti_personality_type']}. Wants {person['dating_intentions'].lower()}."
    )


def _wishes(person: Mapping[str, Any]) -> str:
    wishes = person["partner_preferences"]
    return (
        f"Looks for: {wishes['gender']}, {wishes['minimum_age']} to {wishes['maximum_age']} years, "
        f"{wishes['minimum_height']} to {wishes['maximum_height']}, {', '.join(wishes['politics'])}; interests "
        f"{', '.join(wishes['interests'])}; values {', '.join(wishes['values'])}; smoking: {wishes['smoking']}, "
        f"drinking: {wishes['drinking']}."
    )


def entities(data: Path) -> list[Messages]:
    """A sentence of CoNLL++ whose entities are asked for as JSON, behind one example."""
    train = _file(data, "conllpp/conllpp_train.txt.gz")
    examples = [(question.removeprefix(TASK).strip(), answer) for question, answer in entity_examples(train)]
    shown, answer = min(examples, key=lambda example: len("".join(example)))
    before = [{"role": "user", "content": f"{TASK}\n\n{shown}"}, {"role": "assistant", "content": answer}]
    sentences = [*entity_questions(_file(data, "conllpp/conllpp_dev.txt")), *entity_questions(train)]
    return [[*before, *user(sentence)] for sentence in dict.fromkeys(sentences)]


def questions(data: Path) -> list[Messages]:
    """First turns of the sets that are there, one set after another."""
    found: list[str] = []
    for name in QUESTION_SETS:
        if (data / NAMED[name].file).is_file():
            found += [conversation.turns[0] for conversation in load_workload(NAMED[name], data)]
    if not found:
        raise DataError(f"{data} has none of the sets {', '.join(QUESTION_SETS)}")
    return [user(question) for question in dict.fromkeys(found)]


SCENARIOS = (
    Scenario("preference", "preference matching with explanation", 350, 50, matching, MATCH),
    Scenario("ner", "named-entity recognition", 120, 25, entities, TASK),
    Scenario("qa", "single-turn question answering", 50, 100, questions, WHY),
)
NAMED_SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in SCENARIOS}


def texts_of(scenario: Scenario, data: Path | None, seed: int) -> Texts:
    """The scenario's texts, from files where they are there, generated English where not; ``origin`` says which."""
    if data is None:
        return generated(scenario, seed, "generated English (no data folder)")
    try:
        prompts = scenario.load(data)
    except DataError as error:
        return generated(scenario, seed, f"generated English ({error})")
    random.Random(seed).shuffle(prompts)
    return Texts(f"{len(prompts)} texts of {data}", prompts)


def generated(scenario: Scenario, seed: int, origin: str) -> Texts:
    """Passages from a grammar with the scenario's task behind them; each scenario has its own."""
    first = seed * 1_000_003 + 100_003 * [one.name for one in SCENARIOS].index(scenario.name)

    def make(number: int, size: int) -> Messages:
        text = passage(first + number, size // 60 + 2)[: max(20, size - len(scenario.task) - 2)]
        return user(f"{text.rpartition(' ')[0] or text}\n\n{scenario.task}")

    return Texts(origin, [], make)


def own_rows(path: Path) -> Texts:
    """A file of one's own: chat rows (``messages`` up to the last answer, which is left away) or rows with a
    ``prompt``. Raises ``DataError`` with the line."""
    prompts = [_row(path, number, row) for number, row in _numbered(path)]
    if not prompts:
        raise DataError(f"{path} has no rows")
    return Texts(f"{len(prompts)} rows of {path}", prompts)


def _numbered(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    yield from enumerate(rows(path), 1)


def _row(path: Path, number: int, row: Any) -> Messages:
    if isinstance(row, dict) and isinstance(row.get("prompt"), str):
        return user(row["prompt"])
    messages = row.get("messages") if isinstance(row, dict) else None
    if isinstance(messages, list) and messages and messages[-1].get("role") == "assistant":
        messages = messages[:-1]
    if not messages or not all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages):
        raise DataError(f'{path}, row {number}: give {{"prompt": "..."}} or {{"messages": [...]}} with a user\'s turn')
    return [{"role": str(message.get("role", "user")), "content": message["content"]} for message in messages]


def _file(data: Path, name: str) -> Path:
    path = data / name
    if not path.is_file():
        raise DataError(f"{path} is missing")
    return path
