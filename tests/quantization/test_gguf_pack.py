"""GGUF blocks become packed weights that stand for exactly the same numbers."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize

from paceline.errors import ModelLoadError
from paceline.quantization.gguf import pack
from paceline.quantization.gguf_file import TENSOR_TYPES

ROWS, COLUMNS = 7, 768
QUANTIZED = {kind.name: type_id for type_id, kind in TENSOR_TYPES.items() if kind.block_size > 1}
#: Where the float16 factors of a block are: random bytes there would make infinities and NaNs.
FACTORS = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}
EXPECTED = {
    "Q4_0": ("q4", 32, torch.float16, False),
    "Q4_1": ("q4", 32, torch.float16, True),
    "Q5_0": ("q8", 32, torch.float16, False),
    "Q5_1": ("q8", 32, torch.float16, True),
    "Q8_0": ("q8", 32, torch.float16, False),
    "Q4_K": ("q4", 32, torch.float32, True),
    "Q5_K": ("q8", 32, torch.float32, True),
    "Q6_K": ("q8", 16, torch.float32, False),
}


def random_blocks(name: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Every bit pattern a block can have, with finite factors of both signs."""
    kind = TENSOR_TYPES[QUANTIZED[name]]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows, columns // kind.block_size, kind.block_bytes), np.uint8)
    for start in FACTORS[name]:
        values = rng.normal(0.0, 0.05, (*blocks.shape[:2], 1)).astype(np.float16)
        blocks[..., start : start + 2] = values.view(np.uint8)
    return blocks.reshape(rows, -1)


def reference(data: np.ndarray, type_id: int) -> np.ndarray:
    return dequantize(data, gguf.GGMLQuantizationType(type_id))


@pytest.mark.parametrize("name", QUANTIZED)
def test_packed_blocks_stand_for_exactly_the_numbers_of_the_file(name: str) -> None:
    data = random_blocks(name, ROWS, COLUMNS)
    weight = pack(data.reshape(-1), QUANTIZED[name], ROWS, COLUMNS)
    np.testing.assert_array_equal(weight.dequantize().numpy(), reference(data, QUANTIZED[name]))


@pytest.mark.parametrize("name", QUANTIZED)
def test_each_type_has_its_canonical_form(name: str) -> None:
    weight = pack(random_blocks(name, ROWS, COLUMNS).reshape(-1), QUANTIZED[name], ROWS, COLUMNS)
    kind, group, dtype, has_minimum = EXPECTED[name]
    assert (weight.kind, weight.group_size, weight.shape) == (kind, group, (ROWS, COLUMNS))
    assert weight.scale is not None and weight.scale.dtype is dtype
    assert weight.scale.shape == (ROWS, COLUMNS // group)
    assert (weight.minimum is not None) == has_minimum
    if weight.minimum is not None:
        assert weight.minimum.dtype is dtype and weight.minimum.shape == weight.scale.shape
    assert all(part.is_contiguous() for part in (weight.data, weight.scale))


@pytest.mark.parametrize("name", ["Q4_1", "Q6_K"])
def test_a_matrix_larger_than_one_chunk_is_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.quantization.gguf._CHUNK_BYTES", 4096)
    rows = 301  # no multiple of the rows in a chunk
    data = random_blocks(name, rows, COLUMNS)
    weight = pack(data.reshape(-1), QUANTIZED[name], rows, COLUMNS)
    np.testing.assert_array_equal(weight.dequantize().numpy(), reference(data, QUANTIZED[name]))


def test_neighbouring_columns_share_a_byte_of_a_q4_weight() -> None:
    codes = np.arange(32, dtype=np.uint8) % 16
    block = np.zeros(18, np.uint8)
    block[:2] = np.array([1.0], np.float16).view(np.uint8)
    block[2:] = codes[:16] | (codes[16:] << 4)  # ggml: value j beside value j + 16
    weight = pack(block, QUANTIZED["Q4_0"], 1, 32)
    assert weight.data[0].tolist() == [int(codes[2 * j] | (codes[2 * j + 1] << 4)) for j in range(16)]


@pytest.mark.parametrize(
    ("type_id", "kind", "dtype"), [(0, "f32", torch.float32), (1, "f16", torch.float16), (30, "bf16", torch.bfloat16)]
)
def test_dense_types_are_views_of_the_file(type_id: int, kind: str, dtype: torch.dtype) -> None:
    values = torch.randn(3, 8).to(dtype)
    data = values.view(torch.uint8).numpy().reshape(-1).copy()
    weight = pack(data, type_id, 3, 8)
    assert weight.kind == kind and torch.equal(weight.data, values)
    data[:] = 0
    assert not weight.data.any()


def test_an_unknown_type_is_refused_by_name_with_those_supported() -> None:
    iq4 = int(gguf.GGMLQuantizationType.IQ4_XS)
    with pytest.raises(ModelLoadError, match=r"IQ4_XS.*Q4_K") as error:
        pack(np.zeros(0, np.uint8), iq4, 0, 256)
    assert all(kind.name in str(error.value) for kind in TENSOR_TYPES.values())
