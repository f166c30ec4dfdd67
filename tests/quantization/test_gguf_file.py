"""Reading the structure of a GGUF file, whole or broken."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from paceline.errors import ModelLoadError
from paceline.quantization.gguf_file import GgufFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A small file with every kind of metadata and two tensors."""
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -3)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -300)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -70000)
    writer.add_float32("f32", 0.5)
    writer.add_uint64("u64", 2**60)
    writer.add_int64("i64", -(2**60))
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "Größe ✓")
    writer.add_array("words", ["a", "", "日本"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_array("scores", [0.25, -1.0])
    writer.add_tensor("matrix", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("vector", np.array([1.0, 2.0], np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_of_every_type(path: Path) -> None:
    with GgufFile(path) as file:
        assert file.metadata["general.architecture"] == "llama"
        for key, value in {
            "u8": 200,
            "i8": -3,
            "u16": 60000,
            "i16": -300,
            "u32": 4_000_000_000,
            "i32": -70000,
            "f32": 0.5,
            "u64": 2**60,
            "i64": -(2**60),
            "f64": 0.1,
            "yes": True,
            "text": "Größe ✓",
            "words": ["a", "", "日本"],
        }.items():
            assert file.metadata[key] == value, key
        assert file.metadata["numbers"].tolist() == [1, 2, 3]
        assert file.metadata["scores"].tolist() == [0.25, -1.0]


def test_strings_can_be_left_out(path: Path) -> None:
    with GgufFile(path, strings=False) as file:
        assert file.metadata["words"] == []
        assert file.metadata["text"] == "Größe ✓"
        assert set(file.tensors) == {"matrix", "vector"}


def test_tensors_have_torch_shapes_and_the_right_bytes(path: Path) -> None:
    with GgufFile(path) as file:
        matrix = file.tensors["matrix"]
        assert matrix.shape == (2, 3)
        assert file.data(matrix).view(np.float32).tolist() == [0, 1, 2, 3, 4, 5]
        file.drop(matrix)
        assert file.data(matrix).view(np.float32).tolist() == [0, 1, 2, 3, 4, 5]  # dropped pages come back
        assert file.data(file.tensors["vector"]).view(np.float16).tolist() == [1, 2]


def test_closing_while_a_view_lives_keeps_the_view_readable(path: Path) -> None:
    file = GgufFile(path)
    view = file.data(file.tensors["matrix"])
    file.close()
    assert view.view(np.float32).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_header_agrees_with_the_reference_reader(path: Path) -> None:
    reference = gguf.GGUFReader(path)
    with GgufFile(path) as file:
        assert [t.name for t in reference.tensors] == list(file.tensors)
        assert [t.data_offset for t in reference.tensors] == [t.offset for t in file.tensors.values()]


def test_every_truncation_is_an_error_that_says_so(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    short = tmp_path / "short.gguf"
    for size in [*range(5, len(whole) - 64, 97), len(whole) - 33]:
        short.write_bytes(whole[:size])
        with pytest.raises(ModelLoadError, match=r"truncated|damaged"):
            GgufFile(short)


def test_random_damage_never_escapes_as_another_error(path: Path, tmp_path: Path) -> None:
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    damaged = tmp_path / "damaged.gguf"
    refused = 0
    for _ in range(300):
        data = whole.copy()
        data[rng.integers(0, 600, 4)] = rng.integers(0, 256, 4)
        damaged.write_bytes(data.tobytes())
        try:
            GgufFile(damaged).close()
        except ModelLoadError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read"),
        (b"PK\3\4" + bytes(100), "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0) + bytes(64), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64), "little-endian"),
    ],
)
def test_what_is_no_gguf_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=message):
        GgufFile(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="cannot read"):
        GgufFile(tmp_path / "none.gguf")
