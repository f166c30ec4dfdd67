"""A plan as values for the JSON file."""

from __future__ import annotations

from paceline.bench.plan.capacity import dollars_per_million
from paceline.bench.plan.choice import Option
from paceline.bench.plan.memory import cache_attention
from paceline.bench.plan.plan import Plan
from paceline.bench.plan.predict import Point

MODES = ("without drafts", "with drafts")


def plan_data(plan: Plan) -> dict[str, object]:
    """For the JSON file: seconds, bytes, tokens a second."""
    return {
        "parameters": plan.parameters.total,
        "active_parameters": plan.parameters.active,
        "kv_bytes_per_token": cache_attention(plan.spec, plan.machine).key_bytes * plan.spec.num_layers,
        "fits": plan.chosen is not None,
        "chosen": None if plan.chosen is None else plan.chosen.form.name,
        "reason": plan.reason,
        "remedies": list(plan.remedies),
        "notes": list(plan.notes),
        "formats": [_option_data(plan, option) for option in plan.options],
        "curves": {
            mode: [_point_data(point) for point in curve] for mode, curve in zip(MODES, plan.curves, strict=True)
        },
        "ceilings": {"bandwidth": plan.machine.ceilings.bandwidth, "rates": dict(plan.machine.ceilings.rates)},
    }


def _point_data(point: Point) -> dict[str, float]:
    return {name: getattr(point, name) for name in Point.__slots__}


def _option_data(plan: Plan, option: Option) -> dict[str, object]:
    room, price = option.room, plan.wishes.dollars_per_hour
    fleets = {}
    for mode, fleet in zip(MODES, option.fleets or (), strict=False):
        cost = None if price is None else dollars_per_million(fleet, price, plan.wishes.traffic.tokens_out)
        fleets[mode] = {
            "machines": fleet.machines, "requests": fleet.rate, "most_requests": fleet.most, "load": fleet.load,
            "dollars_per_million_output_tokens": cost, "point": _point_data(fleet.point),
        }  # fmt: skip
    return {
        "name": option.form.name,
        "bits": option.form.bits,
        "weights_bytes": room.weights,
        "activation_bytes": room.activations,
        "cache_bytes": room.cache,
        "sequence_bytes": room.sequence_bytes,
        "tokens": room.tokens,
        "sequences": room.sequences,
        "fits": room.fits,
        "missing_bytes": room.missing,
        "alone": {mode: _point_data(point) for mode, point in zip(MODES, option.alone or (), strict=False)},
        "fleets": fleets,
    }
