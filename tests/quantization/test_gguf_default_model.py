"""The default model's file, read with nothing lost and no time wasted."""

from __future__ import annotations

import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from paceline.quantization.gguf import pack
from paceline.quantization.gguf_file import GgufFile

pytestmark = pytest.mark.model


def test_its_matrices_are_exactly_those_of_the_reference_dequantizer(default_model: Path) -> None:
    kinds = set()
    with GgufFile(default_model, strings=False) as file:
        for tensor in file.tensors.values():
            if len(tensor.shape) != 2 or not tensor.name.startswith(("token_embd", "blk.0.", "blk.17.", "blk.29.")):
                continue
            rows = min(tensor.shape[0], 2048)
            data = file.data(tensor).reshape(tensor.shape[0], -1)[:rows]
            weight = pack(data.reshape(-1), tensor.type_id, rows, tensor.shape[1])
            expected = dequantize(data, gguf.GGMLQuantizationType(tensor.type_id))
            np.testing.assert_array_equal(weight.dequantize().numpy(), expected)
            kinds.add(weight.kind)
    assert kinds == {"q4", "q8"}


def test_the_whole_file_is_opened_and_repacked_in_half_a_second_of_processor_time(default_model: Path) -> None:
    def load() -> float:
        start = time.process_time()
        with GgufFile(default_model) as file:
            for tensor in file.tensors.values():
                if len(tensor.shape) == 2:
                    pack(file.data(tensor), tensor.type_id, *tensor.shape)
                    file.drop(tensor)
        return time.process_time() - start

    assert min(load() for _ in range(3)) < 0.5
