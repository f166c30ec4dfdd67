"""The formats of weights that a plan weighs against each other, widest first."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from paceline.bench.plan.devices import Gpu
from paceline.bench.plan.sizes import Format
from paceline.models.configuration import Configuration, StoredTensor
from paceline.quantization.gguf import pack
from paceline.quantization.gguf_file import TENSOR_TYPES, type_name

INT4_BITS = 4 + 20 / 128  # a scale of 16 bits and a zero point of 4 for a group of 128 (GPTQ, AWQ)
Q8_BITS, Q4_BITS = 8 + 16 / 32, 4 + 16 / 32  # a scale of 16 bits for a group of 32 (Q8_0, Q4_0)
SLACK = 1.0  # bits: formats that differ by less are taken for the same


def gpu_formats(gpu: Gpu, stored_bits: float | None = None) -> list[Format]:
    """What serving engines run on ``gpu``. Embedding and head stay bfloat16, as quantizers leave them.
    ``stored_bits``: of a checkpoint that is quantized already, which no wider format makes better."""
    fp8 = "fp8" if "fp8" in gpu.rates else "bf16"
    int8 = "int8" if "int8" in gpu.rates else "bf16"
    weight_only = "the chip has no fp8 units: weights are stored in 8 bits and multiplied as bfloat16"
    formats = [
        Format("bf16", 16, "bf16", 16, "bf16"),
        Format("fp8", 8, fp8, 16, "bf16", "" if fp8 == "fp8" else weight_only),
        Format("int8", 8, int8, 16, "bf16", "activations are rounded to 8 bits, too; needs a calibrated checkpoint"),
        Format("4-bit", INT4_BITS, "bf16", 16, "bf16", "weights only (GPTQ, AWQ): multiplied as bfloat16"),
    ]
    return [form for form in formats if stored_bits is None or form.bits <= stored_bits + SLACK]


def cpu_formats(configuration: Configuration, bf16: bool) -> list[Format]:
    """What the native backend runs. ``bf16``: whether its kernels multiply bfloat16 as it is; else in float32. A GGUF
    file comes first, in the formats that it has."""
    wide = "bf16" if bf16 else "f32"
    other = [
        Format("bf16", 16, wide, 16, wide),
        Format("8-bit", Q8_BITS, "q8", Q8_BITS, "q8", "as a GGUF file (Q8_0)"),
        Format("4-bit", Q4_BITS, "q4", Q4_BITS, "q4", "as a GGUF file (Q4_0)"),
    ]
    if not configuration.tensors:
        return other
    stored = stored_format(configuration.tensors, bf16)
    # To round a rounded file again has to save something.
    return [stored, *(form for form in other if form.bits < stored.bits - SLACK)]


def stored_format(tensors: Mapping[str, StoredTensor], bf16: bool) -> Format:
    """A GGUF file's own mixture of types, as the native backend keeps it in memory."""
    matrices = {name: tensor for name, tensor in tensors.items() if tensor.dimensions > 1}
    table = {name: tensor for name, tensor in matrices.items() if name in ("token_embd.weight", "output.weight")}
    body = {name: tensor for name, tensor in matrices.items() if name not in table}
    head = table.get("output.weight") or table["token_embd.weight"]
    counts: dict[str, int] = {}
    for tensor in body.values():
        counts[type_name(tensor.type_id)] = counts.get(type_name(tensor.type_id), 0) + tensor.parameters
    main = max(counts, key=lambda name: counts[name])
    type_id = next(key for key, kind in TENSOR_TYPES.items() if kind.name == main)
    return Format(
        f"as stored ({main})", _mean_bits(body), arithmetic_of_type(type_id, bf16), _mean_bits(table),
        arithmetic_of_type(head.type_id, bf16), "the file's own types",
    )  # fmt: skip


def _mean_bits(tensors: Mapping[str, StoredTensor]) -> float:
    total = sum(tensor.parameters for tensor in tensors.values())
    return sum(tensor.parameters * bits_in_memory(tensor.type_id) for tensor in tensors.values()) / total


@cache
def bits_in_memory(type_id: int) -> float:
    """Bits of a number of a GGUF type when it is laid out for the kernels: more than in the file for types whose codes
    or scales the kernels keep wider."""
    stored = TENSOR_TYPES[type_id]
    count = max(stored.block_size, 32)
    blocks = np.zeros(count // stored.block_size * stored.block_bytes, dtype=np.uint8)
    return 8 * pack(blocks, type_id, 1, count).nbytes / count


def arithmetic_of_type(type_id: int, bf16: bool) -> str:
    """The kernel by which the native backend multiplies weights of a GGUF type: those of 4-bit codes, those of all
    wider codes, and two for numbers."""
    name = TENSOR_TYPES[type_id].name
    if name.startswith("Q"):
        return "q4" if name.startswith("Q4") else "q8"
    return "bf16" if name == "BF16" and bf16 else "f32"


def quantized_bits(config: Mapping[str, Any]) -> tuple[float, str] | None:
    """Bits and name of the format of a checkpoint that says that it is quantized; None for one that does not."""
    found = config.get("quantization_config")
    if not isinstance(found, Mapping):
        return None
    method = str(found.get("quant_method", "unknown method"))
    known = {"fp8": 8.0, "fbgemm_fp8": 8.0, "mxfp4": 4.25}
    bits = found.get("bits") or found.get("w_bit") or known.get(method)
    if bits is None and found.get("load_in_4bit"):
        bits = 4
    return (float(bits), method) if bits else (16.0, method)
