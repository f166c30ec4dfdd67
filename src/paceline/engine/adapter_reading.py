"""From an adapter's folder to all that serves it: low-rank updates, and the speculator that lies beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from paceline.adapters.adapter import SPECULATOR_FOLDER, Speculator
from paceline.adapters.weights import AdapterWeights
from paceline.errors import AdapterError, PacelineError


class AdapterReader:
    """A ``Reader`` of the registry. ``lora`` reads the updates; ``speculator`` opens the folder of a speculator, None
    where none would be used: then such folders are passed over.

    An adapter is read whole or refused whole: raises ``AdapterError`` for a speculator that does not fit, too.
    """

    def __init__(
        self, lora: Callable[[Path], AdapterWeights], speculator: Callable[[Path], Speculator] | None = None
    ) -> None:
        self._lora = lora
        self._speculator = speculator

    def __call__(self, folder: Path) -> AdapterWeights:
        weights, place = self._lora(folder), folder / SPECULATOR_FOLDER
        if self._speculator is None or not place.exists():
            return weights
        try:
            return replace(weights, speculator=self._speculator(place))
        except PacelineError as error:
            raise AdapterError(f"adapter {folder}: its speculator cannot be used: {error}") from error
