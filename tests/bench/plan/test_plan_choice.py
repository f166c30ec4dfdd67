"""Machines, costs, the format to use and what would make a model fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plan_models import BF16, FP8, LLAMA_2_70B, LLAMA_3_8B, ideal_machine, spec_of

from paceline.bench.plan.capacity import Fleet, dollars_per_million, fleet
from paceline.bench.plan.choice import Option, best
from paceline.bench.plan.devices import find_gpu
from paceline.bench.plan.formats import gpu_formats
from paceline.bench.plan.machines import gpu_machine
from paceline.bench.plan.memory import Room
from paceline.bench.plan.plan import Plan, Wishes, make_plan
from paceline.bench.plan.predict import Point, Speculation, Traffic
from paceline.bench.plan.sizes import Format
from paceline.errors import PacelineError

DRAFTS = Speculation.guess(2.0, 3)


def point(sequences: int, requests: float, tpot: float = 0.01) -> Point:
    return Point(sequences, 0.01, 0, 1.0, 0.1, tpot, requests, 50 * requests)


POINTS = [point(1, 4.0), point(2, 7.0), point(3, 9.0), point(4, 10.0)]


def test_as_many_machines_as_serve_the_rate_below_the_limit() -> None:
    found = fleet(POINTS, rate=20.0, limit=0.7)
    assert (found.machines, found.most, found.point.sequences) == (3, 10.0, 2)
    assert found.load == pytest.approx(20 / 3 / 10)
    assert fleet(POINTS, rate=21.0, limit=0.7).machines == 3
    assert fleet(POINTS, rate=21.1, limit=0.7).machines == 4
    assert fleet(POINTS, rate=0.5, limit=0.7).machines == 1


def test_without_a_rate_one_machine_serves_what_the_limit_allows() -> None:
    found = fleet(POINTS, rate=None, limit=0.7)
    assert (found.machines, found.rate, found.point.sequences, found.asked) == (1, 7.0, 2, False)


def test_a_million_tokens_cost_what_the_machines_cost_meanwhile() -> None:
    three = Fleet(3, 20.0, 10.0, POINTS[1], True)
    assert dollars_per_million(three, 2.0, 50) == pytest.approx(3 * 2.0 / 3600 / (20 * 50) * 1e6)


def option(name: str, most: float, machines: int = 1, tpot: float = 0.01, asked: bool = True) -> Option:
    form = Format(name, 8, "fp8", 16, "bf16")
    space = Room(1e9, 1.0, 1.0, 1.0, 100, 10)
    own = Fleet(machines, 5.0, most, point(2, 5.0, tpot), asked)
    return Option(form, space, None, (point(1, 1.0), point(1, 1.0)), (own, own))


def unfit(name: str) -> Option:
    return Option(Format(name, 16, "bf16", 16, "bf16"), Room(1.0, 2.0, 1.0, 1.0, 0, 0))


def chosen(*options: Option) -> tuple[str, str]:
    found = best(options)
    assert found is not None
    return found[0].form.name, found[1]


def test_a_narrower_format_has_to_be_worth_its_rounding() -> None:
    assert chosen(option("bf16", 10, asked=False), option("fp8", 11.4, asked=False))[0] == "bf16"
    name, reason = chosen(
        option("bf16", 10, asked=False), option("fp8", 16, asked=False), option("4-bit", 17, asked=False)
    )
    assert name == "fp8"
    assert reason == (
        "bf16 fits; 16 requests/s of a machine instead of 10 (1.60 x as good as bf16); "
        "4-bit rounds more for 1.06 x that"
    )


def test_for_a_load_machines_count_first_and_then_the_speed_of_a_request() -> None:
    name, reason = chosen(option("bf16", 10, machines=5), option("fp8", 16, machines=3))
    assert (name, "3 instead of 5 machines" in reason) == ("fp8", True)
    assert chosen(option("bf16", 10, tpot=0.010), option("fp8", 16, tpot=0.009))[0] == "bf16"
    assert chosen(option("bf16", 10, tpot=0.010), option("fp8", 16, tpot=0.008))[0] == "fp8"


def test_what_does_not_fit_is_not_chosen() -> None:
    name, reason = chosen(unfit("bf16"), option("fp8", 10))
    assert (name, reason) == ("fp8", "fp8 is the widest format that fits (bf16: no)")
    assert best([unfit("bf16"), unfit("fp8")]) is None


def planned(config: dict, gpu: str, traffic: Traffic, wanted: str = "", count: int = 1) -> Plan:
    device = find_gpu(gpu)
    wishes = Wishes(traffic, DRAFTS)
    return make_plan(spec_of(config), gpu_machine(device, count), gpu_formats(device), wishes, wanted)


def test_llama_3_8b_fits_a_24_gb_gpu_and_narrower_leaves_more_room() -> None:
    plan = planned(LLAMA_3_8B, "l4", Traffic(350, 50))
    rooms = {option.form.name: option.room for option in plan.options}
    assert rooms["bf16"].fits
    assert rooms["4-bit"].sequences > rooms["fp8"].sequences > rooms["bf16"].sequences
    assert plan.chosen is not None
    assert [point.sequences for point in plan.curves[0]] == [point.sequences for point in plan.curves[1]]


def test_llama_2_70b_does_not_fit_24_gb_and_the_plan_says_what_would() -> None:
    plan = planned(LLAMA_2_70B, "l4", Traffic(350, 50))
    assert plan.chosen is None
    assert plan.remedies == ("--tensor-parallel 2: 4-bit fits",) or any(
        text.startswith("--tensor-parallel 2: ") and text.endswith("in 4-bit") for text in plan.remedies
    )
    assert any(text.startswith("--gpu ") and text.endswith("one holds it in 4-bit") for text in plan.remedies)


def test_a_wanted_format_that_does_not_fit_names_those_that_do() -> None:
    plan = planned(LLAMA_2_70B, "h100", Traffic(350, 50), wanted="bf16")
    assert plan.chosen is None
    assert any(text.startswith("weights in 4-bit: ") for text in plan.remedies)
    assert any(text.startswith("--tensor-parallel 2: ") and text.endswith("in bf16") for text in plan.remedies)
    assert "--gpu b200: one holds it in bf16" in plan.remedies


def test_a_request_that_is_too_long_for_the_memory_may_be_shorter() -> None:
    spec = spec_of(LLAMA_3_8B)
    machine = replace(gpu_machine(find_gpu("h100")), memory=int(18e9))
    plan = make_plan(spec, machine, [BF16], Wishes(Traffic(8000, 100), DRAFTS))
    assert plan.chosen is None
    assert plan.remedies[0].startswith("shorter requests: up to ")


def test_a_cpu_without_memory_is_told_how_much_is_missing() -> None:
    plan = make_plan(spec_of(LLAMA_3_8B), ideal_machine(10e9), [BF16], Wishes(Traffic(350, 50), DRAFTS))
    assert plan.remedies == [f"{plan.options[0].room.missing / 1e9:.1f} GB more free memory"]


def test_fewer_requests_at_a_time_may_be_asked_for() -> None:
    device = find_gpu("h100")
    wishes = Wishes(Traffic(350, 50), DRAFTS, concurrency=6)
    plan = make_plan(spec_of(LLAMA_3_8B), gpu_machine(device), gpu_formats(device), wishes)
    assert [point.sequences for point in plan.curves[0]] == [1, 2, 4, 6]


def test_requests_beyond_the_context_and_unknown_formats_are_refused() -> None:
    with pytest.raises(PacelineError, match="context of 8192; ask for less with --in and --out"):
        planned(LLAMA_3_8B, "h100", Traffic(8000, 193))
    with pytest.raises(PacelineError, match="no format 'fp7' for this model there; there are bf16, fp8, int8, 4-bit"):
        planned(LLAMA_3_8B, "h100", Traffic(350, 50), wanted="fp7")


def test_more_gpus_serve_more() -> None:
    one, two = (planned(LLAMA_3_8B, "h100", Traffic(350, 50), "bf16", count) for count in (1, 2))
    assert one.chosen and two.chosen and one.chosen.fleets and two.chosen.fleets
    assert 1.5 < two.chosen.fleets[0].most / one.chosen.fleets[0].most < 2.1
    assert FP8.name in [option.form.name for option in two.options]
