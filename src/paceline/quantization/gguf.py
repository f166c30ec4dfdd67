"""GGUF blocks -> ``PackedWeight``, exactly: the codes, scales and minima of the file, laid out canonically.

Block layouts are those of ggml's reference quantizers (``gguf.quants`` is the oracle in the tests). A block type
with one float16 scale a group keeps it; the K types store a product of two factors, which needs float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from paceline.errors import ModelLoadError
from paceline.quantization.gguf_file import TENSOR_TYPES, type_name
from paceline.quantization.packed import Kind, PackedWeight

Bytes = npt.NDArray[np.uint8]
#: Blocks are converted about this many bytes of the file at a time: intermediates stay in the CPU's cache.
_CHUNK_BYTES = 1 << 18
#: codes, scales, minima (or None), group size; codes and scales with leading axes ``[rows, blocks, ...]``.
Parts = tuple[Bytes, npt.NDArray, npt.NDArray | None, int]


def pack(data: Bytes, type_id: int, rows: int, columns: int) -> PackedWeight:
    """``rows * columns`` values stored as GGUF type ``type_id`` in the flat bytes ``data``.

    Dense types give a view of ``data``; quantized types a copy (codes have another order in the file).
    """
    name = type_name(type_id)
    if name in _DENSE:
        kind, dtype = _DENSE[name]
        return PackedWeight(kind, torch.from_numpy(data).view(dtype).view(rows, columns))
    if name not in _READERS:
        supported = ", ".join(kind.name for kind in TENSOR_TYPES.values())
        raise ModelLoadError(f"GGUF tensor type {name} is not supported; supported types: {supported}")
    stored = TENSOR_TYPES[type_id]
    kind, reader = _READERS[name]
    blocks = data.reshape(rows, columns // stored.block_size, stored.block_bytes)
    step = max(1, _CHUNK_BYTES * rows // max(1, data.size))
    codes, scale, minimum, group = _allocate(reader(blocks[:1]), rows)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        new_codes, new_scale, new_minimum, _ = reader(blocks[part])
        codes[part] = new_codes.reshape(-1, codes.shape[1])
        scale[part] = new_scale.reshape(-1, scale.shape[1])
        if minimum is not None and new_minimum is not None:
            minimum[part] = new_minimum.reshape(-1, minimum.shape[1])
    packed_minimum = None if minimum is None else torch.from_numpy(minimum)
    return PackedWeight(kind, torch.from_numpy(codes), torch.from_numpy(scale), packed_minimum, group)


def _allocate(first_row: Parts, rows: int) -> Parts:
    """Room for ``rows`` rows like the given one."""
    codes, scale, minimum, group = first_row

    def room(part: npt.NDArray) -> npt.NDArray:
        return np.empty((rows, part.size), part.dtype)

    return room(codes), room(scale), None if minimum is None else room(minimum), group


def _half(blocks: Bytes, start: int) -> npt.NDArray:
    """The float16 at byte ``start`` of every block."""
    return blocks[..., start : start + 2].view(np.float16)


def _interleave_nibbles(packed: Bytes) -> Bytes:
    """ggml keeps the first half of a run of values in the low nibbles and the second half in the high nibbles;
    canonically, neighbours share a byte. ``packed``: ``[..., n]`` bytes of one run of ``2n`` values each."""
    pairs = packed.view(np.uint16)  # one lane: bytes 2k and 2k + 1
    out = np.empty((*packed.shape[:-1], 2, packed.shape[-1] // 2), np.uint8)
    out[..., 0, :] = (pairs & 0x0F) | ((pairs >> 4) & 0xF0)
    out[..., 1, :] = ((pairs >> 4) & 0x0F) | ((pairs >> 8) & 0xF0)
    return out


def _fifth_bits(low: Bytes, high: Bytes) -> Bytes:
    """5-bit codes of blocks of 32: nibbles in ``low`` ``[..., 16]``, and bit j of ``high`` ``[..., 4]`` for value j."""
    codes = np.concatenate((low & 15, low >> 4), axis=-1)
    codes |= np.unpackbits(high, axis=-1, bitorder="little") << 4
    return codes


def _q4_0(blocks: Bytes) -> Parts:
    return _interleave_nibbles(blocks[..., 2:]), _half(blocks, 0), None, 32


def _q4_1(blocks: Bytes) -> Parts:
    return _interleave_nibbles(blocks[..., 4:]), _half(blocks, 0), _half(blocks, 2), 32


def _q5_0(blocks: Bytes) -> Parts:
    codes = _fifth_bits(blocks[..., 6:], blocks[..., 2:6])
    return codes + np.uint8(128 - 16), _half(blocks, 0), None, 32


def _q5_1(blocks: Bytes) -> Parts:
    return _fifth_bits(blocks[..., 8:], blocks[..., 4:8]), _half(blocks, 0), _half(blocks, 2), 32


def _q8_0(blocks: Bytes) -> Parts:
    return blocks[..., 2:] ^ np.uint8(128), _half(blocks, 0), None, 32  # int8 + 128: flip the sign bit


def _k_scales(blocks: Bytes) -> tuple[npt.NDArray, npt.NDArray]:
    """Scales and minima (float32 ``[..., 8]``) of Q4_K and Q5_K: two float16 factors, then 8 pairs of 6-bit integers
    in 12 bytes: the first four of each in the low 6 bits, the others split between a nibble and the spare top bits."""
    factor = blocks[..., 0:2].view(np.float16).astype(np.float32)
    minimum_factor = blocks[..., 2:4].view(np.float16).astype(np.float32)
    a, b, c = blocks[..., 4:8], blocks[..., 8:12], blocks[..., 12:16]
    scale = np.concatenate((a & 63, (c & 15) | ((a >> 6) << 4)), axis=-1)
    minimum = np.concatenate((b & 63, (c >> 4) | ((b >> 6) << 4)), axis=-1)
    return factor * scale, -(minimum_factor * minimum)


def _q4_k(blocks: Bytes) -> Parts:
    scale, minimum = _k_scales(blocks)
    runs = blocks[..., 16:].reshape(*blocks.shape[:-1], 4, 32)
    return _interleave_nibbles(runs), scale, minimum, 32


def _q5_k(blocks: Bytes) -> Parts:
    scale, minimum = _k_scales(blocks)
    high = blocks[..., 16:48]  # bit g of byte j: fifth bit of value j of group g
    low = blocks[..., 48:].reshape(*blocks.shape[:-1], 4, 1, 32)
    codes = np.concatenate((low & 15, low >> 4), axis=-2).reshape(*blocks.shape[:-1], 8, 32)
    groups = np.arange(8, dtype=np.uint8)[:, None]
    codes |= ((high[..., None, :] >> groups) & 1) << 4
    return codes, scale, minimum, 32


def _q6_k(blocks: Bytes) -> Parts:
    lead = blocks.shape[:-1]
    low = blocks[..., :128].reshape(*lead, 2, 1, 64)
    low = np.concatenate((low & 15, low >> 4), axis=-2).reshape(*lead, 2, 4, 32)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high: Bytes = (blocks[..., 128:192].reshape(*lead, 2, 1, 32) >> shifts) & np.uint8(3)
    codes: Bytes = low | (high << np.uint8(4))
    factor = blocks[..., 208:210].view(np.float16).astype(np.float32)
    scale: npt.NDArray = factor * blocks[..., 192:208].view(np.int8)
    return codes + np.uint8(128 - 32), scale, None, 16


_DENSE: dict[str, tuple[Kind, torch.dtype]] = {
    "F32": ("f32", torch.float32),
    "F16": ("f16", torch.float16),
    "BF16": ("bf16", torch.bfloat16),
}
_READERS: dict[str, tuple[Kind, Callable[[Bytes], Parts]]] = {
    "Q4_0": ("q4", _q4_0),
    "Q4_1": ("q4", _q4_1),
    "Q5_0": ("q8", _q5_0),
    "Q5_1": ("q8", _q5_1),
    "Q8_0": ("q8", _q8_0),
    "Q4_K": ("q4", _q4_k),
    "Q5_K": ("q8", _q5_k),
    "Q6_K": ("q8", _q6_k),
}
