"""Values of the metrics about learning from traffic."""

from __future__ import annotations

from paceline.server.drafter_metrics import Values
from paceline.server.learning import Learning


def learning_values(learning: Learning | None) -> dict[str, Values]:
    """Values by the names of the metrics; none without ``--learn``."""
    if learning is None:
        return {}
    store = learning.recorder.store
    plain: dict[str, float] = {
        "learn_texts": store.count,
        "learn_text_bytes": store.size,
        "learn_missed_texts": learning.recorder.missed,
        "speculator_version": learning.current.version,
        "speculator_versions_trained": learning.trained,
        "trainer_restarts": 0 if learning.trainer is None else learning.trainer.restarts,
    }
    values: dict[str, Values] = {name: {(): value} for name, value in plain.items()}
    numbers = learning.versions.numbers()
    card = learning.versions.card(numbers[-1]) if numbers else None
    if card is not None and card.judgement is not None:
        judged = card.judgement
        values["speculator_held_out_acceptance_length"] = {
            ("current",): judged.current,
            ("candidate",): judged.candidate,
        }
    return values
