"""What was predicted of verified drafts, and what became of them."""

from __future__ import annotations

import pytest

from paceline.speculation.reliability import Reliability


def test_tokens_are_counted_by_drafter_and_predicted_survival() -> None:
    reliability = Reliability()
    reliability.add("a", [0.95, 0.91, 0.5], [True, False])  # behind a refused token everything is refused
    reliability.add("a", [0.97], [True])
    reliability.add("b", [1.0], [True])
    assert reliability.bins() == [
        ("a 0.5-0.6", 0.5, 0.0, 1),
        ("a 0.9-1.0", pytest.approx((0.95 + 0.91 + 0.97) / 3), pytest.approx(2 / 3), 3),
        ("b 0.9-1.0", 1.0, 1.0, 1),
    ]


def test_nothing_is_known_behind_the_end_of_the_text() -> None:
    reliability = Reliability()
    reliability.add("a", [0.9, 0.8, 0.7], [True])
    assert [entry.tokens for entry in reliability.bins()] == [1]
