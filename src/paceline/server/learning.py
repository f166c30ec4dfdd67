"""Learning from traffic, as the server sees it: texts go to the store, versions come from the trainer, one is in use.

Only this process writes which version that is, and it does so when the engine drafts with it: a version that cannot be
read is left, with the reason, and the one in use stays.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Any

import msgspec
from filelock import FileLock, Timeout

from paceline.engine.messages import EngineReady, Request, SequenceDrafts, SpeculatorInfo
from paceline.errors import EngineDeadError, InvalidRequestError, PacelineError
from paceline.learning.settings import TEXTS, VERSIONS, LearnOptions, TrainerConfig, TrainerReport
from paceline.learning.store import TextStore
from paceline.learning.versions import Current, Versions
from paceline.server.ports import EngineClient
from paceline.server.recorder import Recorder
from paceline.server.trainer_process import TrainerProcess

logger = logging.getLogger("paceline.server")


class Learning:
    """Everything of ``--learn``. Raises ``InvalidRequestError`` for a folder that cannot be used."""

    def __init__(self, options: LearnOptions, engine: EngineClient) -> None:
        options.check()
        self.options = options
        self.versions = Versions(options.root / VERSIONS)
        self.trained = 0  # versions made while this server runs
        self.trainer_state = "not started"
        self.trainer: TrainerProcess | None = None
        self.refused: dict[int, str] = {}  # versions that could not be used, and why
        self._engine = engine
        self._switching = asyncio.Lock()
        self._lock = FileLock(options.root / "lock")
        try:
            options.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock.acquire(timeout=0)
            self.recorder = Recorder(TextStore(options.root / TEXTS, options.text_bytes))
            self.current: Current = self.versions.current()
        except Timeout:
            raise InvalidRequestError(f"another server learns in {options.root}; name another folder") from None
        except OSError as error:
            raise InvalidRequestError(f"cannot learn in {options.root}: {error}; name another folder") from error

    async def start(self, ready: EngineReady) -> None:
        """The engine is ready: uses the version that was in use, looks at those that came meanwhile, and starts the
        trainer. Raises ``InvalidRequestError`` where nothing could ever be learned."""
        if "turbo" not in ready.drafters:
            raise InvalidRequestError("--learn trains the drafter 'turbo', which is off here; see --speculate")
        number = self.current.version
        if number and (error := await self._try(number)) is not None:
            logger.error(
                "version %d of the speculator cannot be used, the server begins with its own: %s", number, error
            )
            self.current = msgspec.structs.replace(self.current, version=0)
        for newer in [one for one in self.versions.numbers() if one > self.current.seen]:
            await self._consider(newer)
        config = TrainerConfig(
            options=self.options,
            model=ready.path,
            name=ready.model,
            backend=ready.backend,
            context_length=ready.context_length,
            speculator=ready.speculator,
            parent_pid=os.getpid(),
        )
        self.trainer = TrainerProcess(config, self._on_report)
        self.trainer.start()

    async def close(self) -> None:
        """Ends the trainer and writes the texts that wait."""
        if self.trainer is not None:
            await self.trainer.close()
        await asyncio.to_thread(self.recorder.close)
        self._lock.release()

    def record(self, request: Request, output: Sequence[int], drafts: SequenceDrafts | None) -> None:
        """A sequence ended. Texts of adapters are not kept: it is the base model's speculator that learns."""
        if request.adapter is None:
            self.recorder.add(request.prompt_ids, output, drafts)

    async def use(self, number: int) -> SpeculatorInfo | None:
        """Version ``number`` drafts from now on; 0: the speculator that the server was started with. Raises
        ``InvalidRequestError``, ``ModelLoadError`` or ``EngineDeadError``; the one in use stays then."""
        return await asyncio.shield(asyncio.ensure_future(self._use(number)))

    async def roll_back(self) -> Current:
        """The version that was in use before the one that is now. Raises as ``use``."""
        return await asyncio.shield(asyncio.ensure_future(self._roll_back()))

    def status(self) -> dict[str, Any]:
        """What ``GET /v1/speculator`` answers."""
        store = self.recorder.store
        entries = []
        for number in self.versions.numbers():
            card = self.versions.card(number)
            entry = {} if card is None else msgspec.to_builtins(card)
            entry |= {"number": number, "in_use": number == self.current.version}
            if number in self.refused:
                entry["refused"] = self.refused[number]
            entries.append(entry)
        return {
            "in_use": self.current.version,
            "before": self.current.before,
            "versions": entries,
            "trainer": {"state": self.trainer_state, "restarts": 0 if self.trainer is None else self.trainer.restarts},
            "texts": {
                "folder": str(store.folder),
                "count": store.count,
                "bytes": store.size,
                "max_bytes": store.max_bytes,
                "missed": self.recorder.missed,
                "failed": self.recorder.failed,
            },
        }

    async def _use(self, number: int) -> SpeculatorInfo | None:
        async with self._switching:
            if number != 0 and number not in self.versions.numbers():
                have = ", ".join(map(str, [0, *self.versions.numbers()]))
                raise InvalidRequestError(f"there is no version {number}; there are {have}", "version")
            info = await self._load(number)
            self.current = self.versions.use(number)
            return info

    async def _roll_back(self) -> Current:
        async with self._switching:
            back = self.versions.rolled_back()
            await self._load(back.version)
            self.current = self.versions.write(back)
            logger.info("rolled back to version %d of the speculator", back.version)
            return back

    async def _load(self, number: int) -> SpeculatorInfo | None:
        return await self._engine.use_speculator(None if number == 0 else str(self.versions.folder(number)))

    async def _try(self, number: int) -> str | None:
        """Why the version cannot be used; None: it is."""
        try:
            await self._load(number)
        except EngineDeadError:
            raise
        except PacelineError as error:
            self.refused[number] = str(error)
            return str(error)
        return None

    async def _on_report(self, report: TrainerReport) -> None:
        if report.state != self.trainer_state:
            self.trainer_state = report.state
            logger.info("trainer: %s", report.state)
        if report.version is not None:
            self.trained += 1
            try:
                await self._consider(report.version)
            except (PacelineError, OSError) as error:
                logger.error("version %d of the speculator waits for the next start: %s", report.version, error)

    async def _consider(self, number: int) -> None:
        """Uses a new version if it was better than the one in use."""
        async with self._switching:
            card = self.versions.card(number)
            found = None if card is None else card.judgement
            if found is None or not found.better or found.against != self.current.version:
                self.versions.see(number)
                return
            if (error := await self._try(number)) is not None:
                logger.error("version %d of the speculator is refused, %d stays: %s", number, found.against, error)
                self.versions.see(number)
                return
            self.current = self.versions.use(number)
            logger.info(
                "the speculator is version %d now: %.2f tokens a step instead of %.2f, on %d texts that it was not "
                "trained on", number, found.candidate, found.current, found.texts,
            )  # fmt: skip
