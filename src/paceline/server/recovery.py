"""What to do when the engine process has died: go on, go on carefully, drop a request, or give up."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from paceline.server.open_requests import OpenRequest

LIMIT = 3  # deaths
WINDOW_S = 60.0
_PAUSE_S = 0.5  # before the second start in a row without progress; doubles


@dataclass(frozen=True, slots=True)
class Verdict:
    """``culprit``: the request to end because engines die of it. ``pause_s``: seconds before the next start."""

    give_up: bool = False
    culprit: OpenRequest | None = None
    pause_s: float = 0.0


class Recovery:
    """Judges deaths.

    * ``LIMIT`` deaths within ``WINDOW_S`` without a token for anybody in between: give up.
    * From the second death within ``WINDOW_S`` on, be *cautious*: requests are resubmitted one at a time, the next one
      when the one before has got a token. So a request that kills the engine stands alone when it does.
    * A request that was the only one without a token in an engine that died, and had been without a token in the
      ``LIMIT - 1`` engines before, is the culprit.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deaths: deque[float] = deque()
        self._fruitless: deque[float] = deque()  # deaths since somebody got a token
        self.cautious = False

    def died(self, requests: Collection[OpenRequest], progressed: bool) -> Verdict:
        """``requests``: those open at the death; ``progressed``: whether any request got something from that engine.
        Prepares the requests for the next engine."""
        now = self._clock()
        suspects = []
        for request in requests:
            if request.submitted:
                request.deaths = 0 if request.progressed else request.deaths + 1
                if not request.progressed:
                    suspects.append(request)
            request.submitted = request.progressed = False
        culprit = suspects[0] if len(suspects) == 1 and suspects[0].deaths >= LIMIT else None
        if progressed or culprit is not None:
            self._fruitless.clear()
        if culprit is None:
            self._note(self._fruitless, now)
        self._note(self._deaths, now)
        self.cautious = len(self._deaths) > 1
        failures = len(self._fruitless)
        pause_s = _PAUSE_S * 2 ** (failures - 2) if failures > 1 else 0.0
        return Verdict(failures >= LIMIT, culprit, pause_s)

    @staticmethod
    def _note(times: deque[float], now: float) -> None:
        times.append(now)
        while times[0] < now - WINDOW_S:
            times.popleft()
