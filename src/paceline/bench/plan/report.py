"""The report of ``paceline plan``."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.bench.plan.capacity import Fleet, dollars_per_million
from paceline.bench.plan.choice import Option
from paceline.bench.plan.data import MODES, plan_data
from paceline.bench.plan.memory import Room, cache_attention
from paceline.bench.plan.plan import Plan
from paceline.bench.plan.predict import Point
from paceline.bench.sections import Cell, Plot, Report, Section, Series, Table

GB = 1e9
UNLIMITED = 2**31 - 1
POINT_COLUMNS = (
    "at a time", "step [ms]", "TTFT [ms]", "tokens/s each", "tokens/s all", "drafted", "tokens a step, drafts",
    "TTFT [ms], drafts", "tokens/s each, drafts", "tokens/s all, drafts",
)  # fmt: skip


def plan_report(plan: Plan, model: str, command: str) -> Report:
    """Everything that the plan says."""
    traffic = plan.wishes.traffic
    settings: dict[str, Cell] = {
        "model": model,
        "machine": plan.machine.title,
        "tokens in": traffic.tokens_in,
        "tokens out": traffic.tokens_out,
        "figures of the machine": plan.machine.source,
    }
    sections = [_answer(plan, model), _sizes(plan), _fit(plan)]
    if plan.chosen is not None:
        sections += [_speed(plan), _fleets(plan)]
    sections.append(_assumptions(plan))
    return Report(f"paceline plan {model}", command, sections, settings, plan_data(plan))


def _answer(plan: Plan, model: str) -> Section:
    """The plan in a few sentences."""
    traffic = plan.wishes.traffic
    asked = f"{traffic.tokens_in} tokens in, {traffic.tokens_out} out"
    if plan.chosen is not None:
        return Section("The answer", _use(plan, plan.chosen, asked))
    assert plan.lacking is not None
    form, missing = plan.lacking.form.name, plan.lacking.room.missing / GB
    lack = f"{model} does not fit {plan.machine.title} with one request of {asked}: in {form}, {missing:.1f} GB lack."
    return Section("The answer", [lack, *(f"It would fit with {remedy}." for remedy in plan.remedies)])


def _use(plan: Plan, chosen: Option, asked: str) -> list[str]:
    assert chosen.alone is not None and chosen.fleets is not None
    (plain, drafted), remark = chosen.alone, chosen.form.remark
    room, wanted = chosen.room.sequences, plan.wishes.concurrency or 0
    return [
        f"Use {chosen.form.name}: {plan.reason}." + (f" ({remark[0].upper()}{remark[1:]}.)" if remark else ""),
        f"It fits with room for {_count(room)} requests of {asked} at a time"
        + (f", fewer than the {wanted} asked for." if wanted > room else "."),
        f"One request alone: first token after {_time(plain.ttft)}, then {plain.user_tokens:.0f} tokens/s, "
        f"{drafted.user_tokens:.0f} with drafts.",
        *(_fleet_text(plan, fleet, mode) for fleet, mode in zip(chosen.fleets, MODES, strict=True)),
    ]


def _fleet_text(plan: Plan, fleet: Fleet, mode: str) -> str:
    point, machines = fleet.point, f"{fleet.machines} machine{'s' * (fleet.machines > 1)}"
    of = f"{fleet.rate:.3g} requests/s {mode}: {machines}, each {fleet.load:.0%} busy with {point.sequences} at a time"
    cost = ""
    if plan.wishes.dollars_per_hour is not None:
        dollars = dollars_per_million(fleet, plan.wishes.dollars_per_hour, plan.wishes.traffic.tokens_out)
        cost = f", ${dollars:.3g} per million output tokens"
    return f"{of}; first token after {_time(point.ttft)}, {point.user_tokens:.0f} tokens/s for each{cost}."


def _sizes(plan: Plan) -> Section:
    spec, count, attention = plan.spec, plan.parameters, cache_attention(plan.spec, plan.machine)
    windows = sorted({layer.window for layer in spec.layers})
    named = ", ".join(f"{window} tokens" if window else "the whole context" for window in windows)
    rows: list[list[Cell]] = [
        ["parameters", f"{count.total:,}"],
        ["  that a token is multiplied by", f"{count.active:,}"],
        ["layers", spec.num_layers],
        ["attention heads, key-value heads", f"{spec.num_heads}, {spec.num_kv_heads}"],
        ["attention sees", named],
        ["KV cache, bytes per token", f"{attention.key_bytes * spec.num_layers:,.0f}"],
    ]
    if len(windows) > 1 or windows[0]:
        length = plan.wishes.traffic.length
        rows.append([f"KV cache of a request of {length} tokens [bytes]", f"{attention.cache_bytes(length):,.0f}"])
    rows.append(["longest context [tokens]", spec.max_context])
    return Section("The model", list(plan.notes), [Table("", ("", "value"), rows)])


def _fit(plan: Plan) -> Section:
    rows = [_fit_row(option.form.name, option.form.bits, option.room) for option in plan.options]
    columns = (
        "weights", "bits", "weights [GB]", "activations [GB]", "left for the cache [GB]",
        "room [tokens of one request]", "requests at a time", "fits",
    )  # fmt: skip
    note = f"Of {plan.machine.memory / GB:.1f} GB: nine tenths of what the device has or the system has free."
    remarks = [f"{option.form.name}: {option.form.remark}." for option in plan.options if option.form.remark]
    return Section("Does it fit?", remarks, [Table("", columns, rows, note)])


def _fit_row(name: str, bits: float, room: Room) -> list[Cell]:
    return [
        name,
        round(bits, 2),
        room.weights / GB,
        room.activations / GB,
        room.cache / GB,
        _count(room.tokens),
        room.sequences,
        "yes" if room.fits else f"NO, {room.missing / GB:.1f} GB lack",
    ]


def _speed(plan: Plan) -> Section:
    by_format: list[list[Cell]] = []
    for option in plan.options:
        if option.alone is not None and option.fleets is not None:
            alone, helped = option.alone
            by_format.append(
                [
                    option.form.name + (" (chosen)" if option is plan.chosen else ""),
                    alone.ttft * 1e3, alone.user_tokens, helped.user_tokens,
                    *(fleet.most for fleet in option.fleets),
                    *(fleet.most * plan.wishes.traffic.tokens_out for fleet in option.fleets),
                ]
            )  # fmt: skip
    columns = (
        "weights", "TTFT alone [ms]", "tokens/s alone", "tokens/s alone, drafts", "most requests/s",
        "most requests/s, drafts", "most output tokens/s", "most output tokens/s, drafts",
    )  # fmt: skip
    plain, drafted = plan.curves
    table = Table(
        "By requests at a time, in the chosen format",
        POINT_COLUMNS,
        [_point_row(one, other) for one, other in zip(plain, drafted, strict=True)],
        "Drafted: the number of draft tokens a step and request that pays there; 0: plain decoding.",
    )
    return Section("Predicted speed", (), [Table("By format", columns, by_format), table], _plots(plain, drafted))


def _point_row(plain: Point, drafted: Point) -> list[Cell]:
    return [
        plain.sequences, plain.step * 1e3, plain.ttft * 1e3, plain.user_tokens, plain.tokens,
        drafted.draft, drafted.tokens_per_step, drafted.ttft * 1e3, drafted.user_tokens, drafted.tokens,
    ]  # fmt: skip


def _plots(plain: Sequence[Point], drafted: Sequence[Point]) -> list[Plot]:
    x = [float(point.sequences) for point in plain]

    def both(title: str, unit: str, values: Sequence[Sequence[float]], log_y: bool = False) -> Plot:
        series = [Series(mode, x, own) for mode, own in zip(MODES, values, strict=True)]
        return Plot(title, "requests at a time", unit, series, log_x=True, log_y=log_y)

    curves = plain, drafted
    return [
        both("Output of the machine", "tokens/s", [[point.tokens for point in curve] for curve in curves]),
        both("Output of each request", "tokens/s", [[point.user_tokens for point in curve] for curve in curves]),
        both("Time to first token", "TTFT [ms]", [[point.ttft * 1e3 for point in curve] for curve in curves], True),
    ]


def _fleets(plan: Plan) -> Section:
    assert plan.chosen is not None and plan.chosen.fleets is not None
    wishes, traffic = plan.wishes, plan.wishes.traffic
    rows = []
    for mode, fleet in zip(MODES, plan.chosen.fleets, strict=True):
        row: list[Cell] = [
            mode, fleet.rate, fleet.machines, fleet.load * 100, fleet.point.sequences, fleet.point.ttft * 1e3,
            fleet.point.user_tokens,
        ]  # fmt: skip
        for tokens in (traffic.tokens_out, traffic.length):
            price = wishes.dollars_per_hour
            row.append(None if price is None else dollars_per_million(fleet, price, tokens))
        rows.append(row)
    columns = (
        "", "requests/s", "machines", "busy [%]", "at a time each", "TTFT [ms]", "tokens/s each",
        "$ per million output tokens", "$ per million tokens in and out",
    )  # fmt: skip
    asked = "what one machine gives" if wishes.rate is None else f"{wishes.rate:g} requests/s"
    text = f"For {asked}, each machine at {wishes.utilisation:.0%} of its most or less."
    if wishes.dollars_per_hour is None:
        text += " Give --dollars-per-hour for costs."
    return Section("Machines and cost", [text], [Table("", columns, rows)])


def _assumptions(plan: Plan) -> Section:
    own, of, drafts = plan.machine.efficiency, plan.machine.ceilings, plan.wishes.speculation
    rows: list[list[Cell]] = [["memory bandwidth [GB/s]", of.bandwidth / GB]]
    rows += [[f"multiply rate, {name} [TOP/s]", rate / 1e12] for name, rate in of.rates.items()]
    rows += [
        [f"share of the bandwidth that steps reach, {option.form.name}", own.memory_share(option.form.bits)]
        for option in plan.options
    ]
    rows += [
        ["share of the multiply rate, products", own.products],
        ["share of the bandwidth, keys and values", own.cache],
        ["share of the multiply rate, attention", own.attention],
        ["how much of reading and calculating overlaps", own.overlap],
        ["each layer besides [µs]", own.layer_seconds * 1e6],
        ["chance that a draft token stands behind those before it", drafts.chance],
        ["most draft tokens a step", drafts.draft],
        ["layers of the drafter", drafts.layers],
    ]
    if plan.machine.count > 1:
        rows.append([f"share of {plan.machine.count} devices' sum ({plan.machine.link})", plan.machine.speed])
    text = (
        "A step takes the longer of bytes / bandwidth and operations / rate (both, where they do not overlap), "
        "products and attention one after the other, each divided by the share that steps reach. docs/plan.md says "
        "where the shares come from."
    )
    return Section("What this rests on", [text], [Table("", ("", "value"), rows)])


def _count(number: int) -> str:
    return "any" if number >= UNLIMITED else f"{number:,}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
