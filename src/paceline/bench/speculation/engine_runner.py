"""Points in an engine of this process."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.bench.speculation.calibration import Calibration
from paceline.bench.speculation.closed_loop import ClosedLoop, Planned, Prompter
from paceline.bench.speculation.points import Point
from paceline.bench.speculation.run import WARM_TOKENS, WARM_UPS, EngineSession, warm_ups
from paceline.bench.speculation.turns import Pass
from paceline.bench.speculation.workloads import Conversation


class EngineRunner:
    """Before each pass the engine forgets its drafters' texts, its controller's experience and its prefix cache."""

    baseline = True
    remembers = False

    def __init__(self, session: EngineSession, adapter: str | None = None) -> None:
        self.session = session
        self.adapter = adapter
        self.prompter = Prompter(session.tokenizer)
        self.calibration = Calibration()

    @property
    def drafts(self) -> bool:
        return bool(self.session.ready.drafters)

    def tokens(self, text: str) -> int:
        """Of a request whose only message is ``text``."""
        return len(self.prompter.ids([{"role": "user", "content": text}]))

    def run(self, planned: Sequence[Planned], point: Point, speculative: bool) -> Pass:
        self.session.renew()
        warm = warm_ups(self.prompter, self.session.engine.context_length)
        self._loop(WARM_UPS, min(WARM_TOKENS, point.max_tokens), point, speculative).run(warm)
        passed = self._loop(point.concurrency, point.max_tokens, point, speculative).run(planned)
        if speculative:
            self.calibration.add(self.session.engine)
        return passed

    def _loop(self, load: int, max_tokens: int, point: Point, speculative: bool) -> ClosedLoop:
        return ClosedLoop(
            self.session.engine,
            self.prompter,
            load,
            max_tokens,
            point.temperature,
            speculative,
            self.adapter,
            max_draft=point.draft_length,
            staggered=False,
            fill=True,
        )

    def plan(self, conversations: Sequence[Conversation], room: int) -> tuple[list[Planned], int]:
        """The conversations whose first prompt leaves at least ``room`` tokens of the context, and how many do not."""
        planned = [Planned(one, self.prompter.ids(one.opening())) for one in conversations]
        fitting = [one for one in planned if len(one.prompt_ids) + room <= self.session.engine.context_length]
        return fitting, len(planned) - len(fitting)
