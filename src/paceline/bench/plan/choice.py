"""Which format of weights to use and why, and what would make a model fit that does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paceline.bench.plan.capacity import Fleet
from paceline.bench.plan.devices import GPUS, Gpu
from paceline.bench.plan.formats import gpu_formats
from paceline.bench.plan.machines import Machine, gpu_machine
from paceline.bench.plan.memory import Room, room
from paceline.bench.plan.predict import Point, Predictor
from paceline.bench.plan.sizes import Format
from paceline.models.spec import ModelSpec

WORTH = 1.15  # how much faster a narrower format has to be than a wider one that fits
COUNTS = (2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Option:
    """A format on the machine. ``alone``: one request at a time; ``busy``: the asked load; both without and with
    drafts. None where it does not fit."""

    form: Format
    room: Room
    predictor: Predictor | None = None
    alone: tuple[Point, Point] | None = None
    fleets: tuple[Fleet, Fleet] | None = None


def best(options: Sequence[Option]) -> tuple[Option, str] | None:
    """The option to use and the reason. Options come widest first: a narrower one has to be ``WORTH`` times as good as
    the one chosen so far, by machines where the load needs fewer, else by the speed of each request at that load (by
    requests of a machine where no load was asked for), without drafts. None when nothing fits."""
    fitting = [option for option in options if option.fleets is not None]
    if not fitting:
        return None
    chosen, reasons = fitting[0], []
    for option in fitting[1:]:
        gain, what = _gain(option, chosen)
        if gain >= WORTH:
            chosen, reasons = option, [f"{what} ({gain:.2f} x as good as {chosen.form.name})"]
        else:
            reasons.append(f"{option.form.name} rounds more for {gain:.2f} x that")
    return chosen, "; ".join([_first_reason(options, fitting[0]), *reasons])


def _gain(option: Option, chosen: Option) -> tuple[float, str]:
    """How many times as good ``option`` is as ``chosen``, and what it has."""
    assert option.fleets is not None and chosen.fleets is not None
    new, old = option.fleets[0], chosen.fleets[0]
    if not new.asked:
        return new.most / old.most, f"{new.most:.3g} requests/s of a machine instead of {old.most:.3g}"
    if new.machines != old.machines:
        return old.machines / new.machines, f"{new.machines} instead of {old.machines} machines"
    speeds = new.point.user_tokens, old.point.user_tokens
    return speeds[0] / speeds[1], f"{speeds[0]:.0f} tokens/s of each request instead of {speeds[1]:.0f}"


def _first_reason(options: Sequence[Option], first: Option) -> str:
    """How the widest format that fits stands among all of them."""
    wider = [option.form.name for option in options[: options.index(first)]]
    if wider:
        return f"{first.form.name} is the widest format that fits ({', '.join(wider)}: no)"
    return f"{first.form.name} fits"


def remedies(spec: ModelSpec, wanted: Option, options: Sequence[Option], machine: Machine, length: int) -> list[str]:
    """What would make ``wanted`` fit: sentences, the cheapest changes first."""
    found = []
    lacking = wanted.room
    if lacking.cache > 0 and lacking.tokens > 0:
        found.append(f"shorter requests: up to {lacking.tokens} tokens in and out together")
    found += [
        f"weights in {option.form.name}: {option.room.sequences} requests of {length} tokens at a time"
        for option in options
        if option.room.fits
    ]
    if machine.link:
        found += _more_gpus(spec, wanted.form, machine, length) + _other_gpus(spec, wanted.form, length)
    else:
        found.append(f"{lacking.missing / 1e9:.1f} GB more free memory")
    return found


def _more_gpus(spec: ModelSpec, form: Format, machine: Machine, length: int) -> list[str]:
    gpu = next(gpu for gpu in GPUS.values() if machine.title.endswith(gpu.title))
    for count in COUNTS:
        if count > machine.count and spec.num_heads % count == 0:
            sequences = room(spec, form, gpu_machine(gpu, count), length).sequences
            if sequences:
                return [f"--tensor-parallel {count}: {sequences} requests at a time in {form.name}"]
    return []


def _other_gpus(spec: ModelSpec, form: Format, length: int) -> list[str]:
    """The smallest single GPU of the table that holds it."""

    def holds(gpu: Gpu) -> bool:
        known = {own.name for own in gpu_formats(gpu)}
        return form.name in known and room(spec, form, gpu_machine(gpu), length).fits

    fitting = sorted((gpu.memory, gpu.name) for gpu in GPUS.values() if holds(gpu))
    return [f"--gpu {fitting[0][1]}: one holds it in {form.name}"] if fitting else []
