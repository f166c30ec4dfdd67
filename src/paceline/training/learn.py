"""The trainer of ``paceline serve --learn``, a process of the lowest priority: ``python -m paceline.training.learn``.

The first line of standard input is a ``TrainerConfig``, its end is the end of the server and of this process. Lines of
standard output are ``TrainerReport``. Rounds follow each other (``learn_round.py``); one that was interrupted goes on.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time

import msgspec

from paceline.engine.process import die_with_parent
from paceline.errors import PacelineError
from paceline.learning.settings import TrainerConfig, TrainerReport

logger = logging.getLogger(__name__)


def lower_priority() -> None:
    """The lowest there is: by the scheduler's idle class where there is one, and by niceness."""
    if hasattr(os, "nice"):
        os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError as error:  # not allowed in some containers
            logger.info("the idle class cannot be had, niceness must do: %s", error)


def read_config() -> TrainerConfig:
    """The first line of standard input, byte by byte so that nothing behind it is taken."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return msgspec.json.decode(bytes(line), type=TrainerConfig)


def tell(report: TrainerReport) -> None:
    """One line for the server."""
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Runs rounds for as long as the server lives."""
    config = read_config()
    die_with_parent(config.parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the server ends this process
    logging.basicConfig(level=logging.INFO, format="%(levelname)s trainer: %(message)s", stream=sys.stderr)
    lower_priority()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    import torch

    from paceline.training.learn_round import Learner

    torch.set_num_threads(1)
    learner = Learner(config)

    def stop(*_: object) -> None:
        if learner.waits or learner.stopping:
            os._exit(0)
        learner.stopping = True  # a training ends at its next step, with a checkpoint

    signal.signal(signal.SIGTERM, stop)
    while not learner.stopping:
        try:
            report = learner.advance()
        except (PacelineError, OSError) as error:
            tell(TrainerReport(state=f"failed: {error}"))
            raise
        tell(report)
        if learner.waits:
            time.sleep(config.options.pause_s)


if __name__ == "__main__":
    main()
