from __future__ import annotations

import pytest

from paceline.backends import registry
from paceline.backends.registry import get_backend
from paceline.errors import PacelineError


def test_a_backend_is_made_by_name_with_its_options() -> None:
    assert get_backend("torch", row_invariant=False).name == "torch"


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PacelineError, match="no backend 'tpu'; choose one of cpu, torch"):
        get_backend("tpu")


def test_a_backend_that_is_not_installed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BACKENDS, "absent", "paceline.backends.absent:Backend")
    with pytest.raises(PacelineError, match=r"'absent' is not available.*No module named 'paceline.backends.absent'"):
        get_backend("absent")
