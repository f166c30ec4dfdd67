"""The run: every setting answers the questions of every task, and answers are judged and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from paceline.bench.quality.answerers import Answerer, CannotAnswerError
from paceline.bench.quality.tasks import Counts, Task, micro_f1

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Variant:
    """A setting with its engine. Variants whose ``numerics`` are equal promise the same answers. ``open`` makes the
    engine (or finds the server) when its turn comes: only one is there at a time."""

    name: str
    numerics: tuple[tuple[str, str], ...]
    open: Callable[[], Answerer]


@dataclass(frozen=True, slots=True)
class Answer:
    """``text``: what was written or chosen. ``weights``: log probability of each of the task's options, if weighed."""

    text: str
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What one setting answered to one task's questions."""

    answers: Sequence[Answer]
    counts: Sequence[Counts]

    @property
    def score(self) -> float:
        """Accuracy, or micro F1."""
        return micro_f1(self.counts)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Answers of a setting beside those of another. ``promised``: they must be identical, log probabilities included.
    ``differing``: indices of the questions with another text. ``weight_gap``: the largest difference of a log
    probability, None where none was taken."""

    task: Task
    setting: str
    other: str
    promised: bool
    differing: Sequence[int]
    weight_gap: float | None

    @property
    def broken(self) -> bool:
        return self.promised and (bool(self.differing) or bool(self.weight_gap))


@dataclass(slots=True)
class QualityBench:
    """``all_agree``: every setting is to give the same answers, whatever it is. ``results`` by task and setting;
    ``notes`` say what was left out and why."""

    tasks: Sequence[Task]
    variants: Sequence[Variant]
    all_agree: bool = False
    say: Say = print
    results: dict[str, dict[str, Result]] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Asks everything; raises what the engines raise."""
        for variant in self.variants:
            answerer = variant.open()
            try:
                self.descriptions[variant.name] = answerer.description
                for task in self.tasks:
                    self._ask(variant.name, answerer, task)
            finally:
                answerer.close()

    def agreements(self) -> list[Agreement]:
        """Each setting's answers beside those of the first setting that promises the same ones, or else of the first
        of all."""
        found = []
        for task in self.tasks:
            answered = self.results.get(task.name, {})
            present = [variant for variant in self.variants if variant.name in answered]
            for index, variant in enumerate(present[1:], 1):
                same = [one for one in present[:index] if self.all_agree or one.numerics == variant.numerics]
                other = (same or present)[0]
                pair = (answered[variant.name], answered[other.name])
                found.append(_compare(task, variant.name, other.name, bool(same), *pair))
        return found

    def _ask(self, setting: str, answerer: Answerer, task: Task) -> None:
        try:
            answers = _answers(answerer, task)
        except CannotAnswerError as error:
            self.notes.append(f"{task.name} was left out with {setting}: {error}")
            self.say(self.notes[-1])
            return
        pairs = zip(task.questions, answers, strict=True)
        result = Result(answers, [task.judge(answer.text, question.gold) for question, answer in pairs])
        self.results.setdefault(task.name, {})[setting] = result
        self.say(f"{setting}: {task.name} {task.metric} {result.score:.1%} of {len(answers)} questions")


def _answers(answerer: Answerer, task: Task) -> list[Answer]:
    prompts = [question.prompt for question in task.questions]
    if task.how == "write":
        return [Answer(text) for text in answerer.write(prompts, task.max_tokens, task.stop)]
    if task.how == "choose":
        return [Answer(text) for text in answerer.choose(prompts, task.options)]
    weighed = answerer.weigh(prompts, task.options)
    return [Answer(task.options[weights.index(max(weights))], weights) for weights in weighed]


def _compare(task: Task, setting: str, other: str, promised: bool, ours: Result, theirs: Result) -> Agreement:
    pairs = list(zip(ours.answers, theirs.answers, strict=True))
    gaps = [abs(a - b) for one, two in pairs for a, b in zip(one.weights, two.weights, strict=True)]
    differing = [i for i, (one, two) in enumerate(pairs) if one.text != two.text]
    return Agreement(task, setting, other, promised, differing, max(gaps) if gaps else None)
