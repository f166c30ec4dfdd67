"""When requests arrive, and what loads can be asked for."""

from __future__ import annotations

from itertools import pairwise

import pytest

from paceline.bench.load.arrivals import arrivals
from paceline.bench.load.loads import Load, LoadError, parse_numbers
from paceline.bench.statistics import quantile


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert arrivals(4, "constant", "s", duration=1.0) == pytest.approx([0, 0.25, 0.5, 0.75])
    assert arrivals(4, "constant", "s", requests=3) == pytest.approx([0, 0.25, 0.5])


def test_whichever_comes_first_ends_arrivals() -> None:
    assert len(arrivals(10, "constant", "s", duration=1.0, requests=3)) == 3
    assert len(arrivals(10, "constant", "s", duration=0.25, requests=30)) == 3
    with pytest.raises(ValueError, match="duration or a number"):
        arrivals(1, "poisson", "s")


def test_poisson_gaps_are_exponential_and_fixed_by_the_seed() -> None:
    times = arrivals(5, "poisson", "seed 1", requests=4000)
    assert times == sorted(times) and times[0] > 0
    assert times == arrivals(5, "poisson", "seed 1", requests=4000)
    assert times != arrivals(5, "poisson", "seed 2", requests=4000)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.2, rel=0.05)
    assert quantile(gaps, 0.5) == pytest.approx(0.2 * 0.6931, rel=0.08)  # ln 2 x mean: not constant
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.08)


def test_numbers_come_repeated_and_in_lists() -> None:
    assert parse_numbers(["4, 1", "0.5", "4"], "--rate") == [0.5, 1, 4]
    for text in ("0", "-1", "x", "", "1,,2", "nan", "inf"):
        with pytest.raises(LoadError, match="--rate"):
            parse_numbers([text], "--rate")
    with pytest.raises(LoadError, match="whole number"):
        parse_numbers(["1.5"], "--concurrency", whole=True)


def test_loads_say_what_they_are() -> None:
    assert [str(load) for load in (Load("rate", 0.5), Load("concurrency", 8), Load("trace", 2))] == [
        "0.5 req/s",
        "8 at once",
        "trace x 2",
    ]
    assert Load("concurrency", 1).closed_requests() == 16
    assert Load("concurrency", 32).closed_requests() == 256
