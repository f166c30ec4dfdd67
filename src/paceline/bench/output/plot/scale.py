"""Where a value lies on an axis, and which values the axis names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Ticks = list[float]

OWN_TICKS = 12  # so many different values at most are named themselves, in place of round numbers


@dataclass(frozen=True, slots=True)
class Scale:
    """``low`` to ``high`` in the unit of the values lie at ``start`` to ``end`` in pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Pixels; the value must be one that ``holds``."""
        share = math.log(value / self.low, self.high / self.low) if self.log else self._share(value)
        return self.start + share * (self.end - self.start)

    def _share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def holds(self, value: float | None) -> bool:
        return value is not None and math.isfinite(value) and (value > 0 or not self.log)

    def moved(self, start: float, end: float) -> Scale:
        """The same values on other pixels."""
        return Scale(self.low, self.high, start, end, self.log)


def value_scale(values: Sequence[float], *, log: bool = False, from_zero: bool = False) -> Scale:
    """Holds all ``values``, with round ends. From zero on when asked for, or when little of the axis would be empty:
    a difference that fills the plot looks larger than it is."""
    held = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    low, high = (min(held), max(held)) if held else (1.0, 10.0) if log else (0.0, 1.0)
    if log:
        room = max((high / low) ** 0.04, 1.05 if high > low else 2.0)
        return Scale(low / room, high * room, 0.0, 1.0, True)
    if from_zero or 0 <= low <= 0.5 * high or (high <= 0 and high >= 0.5 * low):
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = (low - abs(low) * 0.1, high + abs(high) * 0.1) if low else (0.0, 1.0)
    for _ in range(2):  # round ends may be so much longer that they ask for longer steps
        step = round_step(high - low, 5)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return Scale(low, high, 0.0, 1.0)


def place_scale(values: Sequence[float], *, log: bool = False) -> Scale:
    """For the axis along which things are laid out: only as long as ``values``, with a margin."""
    if log:
        return value_scale(values, log=True)
    held = [value for value in values if math.isfinite(value)]
    low, high = (min(held), max(held)) if held else (0.0, 1.0)
    margin = 0.03 * (high - low) or 0.5 * abs(low) or 0.5
    return Scale(low - margin if low < 0 or low >= margin else 0.0, high + margin, 0.0, 1.0)


def round_step(span: float, count: int) -> float:
    """1, 2 or 5 times a power of ten: about ``count`` steps in ``span``."""
    power = 10.0 ** math.floor(math.log10(span / count))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * count >= span * (1 - 1e-9))


def round_ticks(scale: Scale, count: int = 5) -> Ticks:
    """Round values on the axis."""
    if scale.log:
        for factors in ((1,), (1, 3), (1, 2, 5)):
            found = _log_ticks(scale, factors)
            if len(found) >= 3:
                every = math.ceil(len(found) / (2 * count))
                return found[::every]
    step = round_step(scale.high - scale.low, count)
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    return [tick for i in range(first, last + 1) if scale.holds(tick := round(i * step, 12))]


def _log_ticks(scale: Scale, factors: Sequence[int]) -> Ticks:
    decades = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    ticks = [float(f"{factor}e{decade}") for decade in decades for factor in factors]
    return [tick for tick in ticks if scale.low <= tick <= scale.high]


def place_ticks(scale: Scale, values: Sequence[float], text_width: float) -> Ticks:
    """The values themselves where they are few and their names, ``text_width`` pixels a character, have room; round
    values otherwise. On a logarithmic axis, where values often double, those without room are left unnamed."""
    own = sorted({value for value in values if scale.holds(value)})
    if 0 < len(own) <= OWN_TICKS:
        kept = [own[0]]
        for value in own[1:]:
            room = (len(tick_text(value)) + len(tick_text(kept[-1]))) / 2 * text_width + 8
            if scale.at(value) - scale.at(kept[-1]) >= room:
                kept.append(value)
        if len(kept) == len(own) or (scale.log and len(kept) > 2):
            return kept
    return round_ticks(scale, max(2, int(abs(scale.end - scale.start) / 70)))


def tick_text(value: float) -> str:
    """Short: 0.05, 20k, 1.5M."""
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            scaled = value / (1e3 if unit == "k" else limit)
            return f"{scaled:.4g}{unit}" if float(f"{scaled:.4g}") == round(scaled, 9) else f"{value:.0f}"
    return f"{value:.6g}".replace("e-0", "e-")
