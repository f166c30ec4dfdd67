"""A plan: one model, one machine, every format of weights that it could have there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from paceline.bench.plan.capacity import all_points, fleet
from paceline.bench.plan.choice import Option, best, remedies
from paceline.bench.plan.machines import Machine
from paceline.bench.plan.memory import room
from paceline.bench.plan.predict import Point, Predictor, Speculation, Traffic
from paceline.bench.plan.sizes import Format, Parameters, parameters
from paceline.errors import PacelineError
from paceline.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked of the machine. ``rate``: requests a second, None: what one machine gives; ``utilisation``: the
    share of a machine's most that it should serve; ``concurrency``: the most sequences at a time, None: what fits and
    engines let run."""

    traffic: Traffic
    speculation: Speculation
    rate: float | None = None
    utilisation: float = 0.7
    dollars_per_hour: float | None = None  # of a machine with all its GPUs
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """``options``: all formats, widest first; ``chosen`` and ``reason``: the one to use. None when nothing fits: then
    ``lacking`` is the one that came nearest (or was asked for), and ``remedies`` say what would fit. ``curves``: the
    chosen one by sequences, without and with drafts."""

    spec: ModelSpec
    machine: Machine
    wishes: Wishes
    parameters: Parameters
    options: Sequence[Option]
    chosen: Option | None
    reason: str
    lacking: Option | None = None
    remedies: Sequence[str] = ()
    curves: tuple[Sequence[Point], Sequence[Point]] = ((), ())
    notes: Sequence[str] = field(default_factory=tuple)


def make_plan(
    spec: ModelSpec,
    machine: Machine,
    forms: Sequence[Format],
    wishes: Wishes,
    wanted: str = "",
    notes: Sequence[str] = (),
) -> Plan:
    """Weighs all ``forms``. ``wanted``: the name of the one to use, empty: the best. Raises ``PacelineError`` for
    requests that the model cannot have, and for a format that is not among them."""
    if wishes.traffic.length > spec.max_context:
        raise PacelineError(
            f"{wishes.traffic.tokens_in} tokens in and {wishes.traffic.tokens_out} out are more than the model's "
            f"context of {spec.max_context}; ask for less with --in and --out"
        )
    names = [form.name for form in forms]
    if wanted and wanted not in names:
        raise PacelineError(f"no format {wanted!r} for this model there; there are {', '.join(names)}")
    options = [_option(spec, form, machine, wishes) for form in forms]
    allowed = [option for option in options if not wanted or option.form.name == wanted]
    found = best(allowed)
    if found is None:
        lacking = min(allowed, key=lambda option: option.room.missing)
        ways = remedies(spec, lacking, options, machine, wishes.traffic.length)
        return Plan(spec, machine, wishes, parameters(spec), options, None, "", lacking, ways, notes=notes)
    chosen, reason = found
    return Plan(
        spec, machine, wishes, parameters(spec), options, chosen, "as asked for" if wanted else reason,
        curves=_curves(chosen, wishes, machine), notes=notes,
    )  # fmt: skip


def sequences_of(option_sequences: int, machine: Machine, wishes: Wishes) -> int:
    """How many run together: what fits, what engines allow, and what the user does."""
    return min(option_sequences, wishes.concurrency or machine.max_running)


def _option(spec: ModelSpec, form: Format, machine: Machine, wishes: Wishes) -> Option:
    space = room(spec, form, machine, wishes.traffic.length)
    most = sequences_of(space.sequences, machine, wishes)
    if most < 1:
        return Option(form, space)
    predictor, drafts, traffic = Predictor(spec, form, machine), wishes.speculation, wishes.traffic
    alone = predictor.point(1, traffic), predictor.point(1, traffic, drafts)
    plain, drafted = (all_points(predictor, most, traffic, speculation) for speculation in (None, drafts))
    fleets = fleet(plain, wishes.rate, wishes.utilisation), fleet(drafted, wishes.rate, wishes.utilisation)
    return Option(form, space, predictor, alone, fleets)


def _curves(chosen: Option, wishes: Wishes, machine: Machine) -> tuple[Sequence[Point], Sequence[Point]]:
    assert chosen.predictor is not None
    most = sequences_of(chosen.room.sequences, machine, wishes)
    curve, traffic = chosen.predictor.curve, wishes.traffic
    return curve(most, traffic), curve(most, traffic, wishes.speculation)
