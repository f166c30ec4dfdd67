"""Formats of weights on GPUs and on this CPU, and what files of quantized weights become in memory."""

from __future__ import annotations

import pytest

from paceline.bench.plan.devices import find_gpu
from paceline.bench.plan.formats import bits_in_memory, cpu_formats, gpu_formats, quantized_bits, stored_format
from paceline.models.configuration import Configuration, StoredTensor
from paceline.quantization.gguf_file import TENSOR_TYPES

ID = {kind.name: number for number, kind in TENSOR_TYPES.items()}


def configuration(**types: str) -> Configuration:
    """A GGUF file with an embedding of 100 numbers and matrices of 1000 each; no types: not a GGUF file."""
    names = {"embedding": "token_embd.weight", "head": "output.weight"}
    tensors = {
        names.get(name, f"blk.0.{name}.weight"): StoredTensor(100 if name in names else 1000, ID[kind], 2)
        for name, kind in types.items()
    }
    if tensors:
        tensors["blk.0.attn_norm.weight"] = StoredTensor(50, ID["F32"], 1)
    return Configuration({}, "model", "", tensors)


def test_chips_without_units_for_8_bits_multiply_wider() -> None:
    by_name = {gpu: {form.name: form.arithmetic for form in gpu_formats(find_gpu(gpu))} for gpu in ("h100", "a100")}
    assert by_name["h100"] == {"bf16": "bf16", "fp8": "fp8", "int8": "int8", "4-bit": "bf16"}
    assert by_name["a100"] == {"bf16": "bf16", "fp8": "bf16", "int8": "int8", "4-bit": "bf16"}
    assert "no fp8 units" in gpu_formats(find_gpu("a100"))[1].remark


def test_nothing_is_gained_by_widening_a_quantized_checkpoint() -> None:
    assert [form.name for form in gpu_formats(find_gpu("h100"), 4.0)] == ["4-bit"]
    assert [form.name for form in gpu_formats(find_gpu("h100"), 8.0)] == ["fp8", "int8", "4-bit"]


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({}, None),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, (4.0, "gptq")),
        ({"quantization_config": {"quant_method": "awq", "w_bit": 4}}, (4.0, "awq")),
        ({"quantization_config": {"quant_method": "fp8"}}, (8.0, "fp8")),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, (4.0, "bitsandbytes")),
        ({"quantization_config": {"quant_method": "novel"}}, (16.0, "novel")),
    ],
)
def test_a_config_tells_how_it_is_quantized(config: dict, found: tuple[float, str] | None) -> None:
    assert quantized_bits(config) == found


@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        ("Q4_0", 4.5),
        ("Q4_1", 5.0),
        ("Q8_0", 8.5),
        ("Q5_0", 8.5),
        ("Q4_K", 6.0),
        ("Q6_K", 10.0),
        ("BF16", 16),
        ("F32", 32),
    ],
)
def test_types_take_in_memory_what_the_kernels_lay_out(kind: str, bits: float) -> None:
    assert bits_in_memory(ID[kind]) == bits


def test_a_file_of_mixed_types_has_their_mean() -> None:
    stored = stored_format(configuration(embedding="Q8_0", a="Q4_0", b="Q4_0", c="Q6_K").tensors, bf16=True)
    assert stored.name == "as stored (Q4_0)"
    assert stored.bits == pytest.approx((4.5 + 4.5 + 10.0) / 3)
    assert (stored.arithmetic, stored.table_bits, stored.table_arithmetic) == ("q4", 8.5, "q8")


def test_a_head_of_its_own_decides_how_logits_are_multiplied() -> None:
    stored = stored_format(configuration(embedding="Q8_0", head="F16", a="BF16").tensors, bf16=False)
    assert (stored.arithmetic, stored.table_bits, stored.table_arithmetic) == ("f32", pytest.approx(12.25), "f32")


def test_a_gguf_file_comes_first_and_is_rounded_again_only_where_that_saves_something() -> None:
    def names(kind: str) -> list[str]:
        return [form.name for form in cpu_formats(configuration(embedding="Q8_0", a=kind), bf16=True)]

    assert names("Q4_1") == ["as stored (Q4_1)"]
    assert names("Q8_0") == ["as stored (Q8_0)", "4-bit"]
    assert names("BF16") == ["as stored (BF16)", "8-bit", "4-bit"]
    assert [form.name for form in cpu_formats(configuration(), bf16=True)] == ["bf16", "8-bit", "4-bit"]


@pytest.mark.parametrize(("bf16", "arithmetic"), [(True, "bf16"), (False, "f32")])
def test_bf16_weights_are_multiplied_as_the_cpu_can(bf16: bool, arithmetic: str) -> None:
    assert cpu_formats(configuration(), bf16)[0].arithmetic == arithmetic
