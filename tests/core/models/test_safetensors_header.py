import io
import json
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save, save_file

from core.errors import UnsupportedMedia, WeightsMismatch
from core.ingest_errors import ModelHeaderInvalid
from core.models.safetensors_header import TensorEntry, read_header, read_model_info

STATE = {"a.weight": torch.zeros(3, 4), "b": torch.zeros(2, dtype=torch.int64), "scalar": torch.zeros(())}


def headed(header, data=b""):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def zipped():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return out.getvalue()


def test_a_header_lists_the_tensors(tmp_path):
    save_file(STATE, tmp_path / "m.safetensors", metadata={"format": "pt"})
    header = read_header(tmp_path / "m.safetensors")

    assert header.tensors == {
        "a.weight": TensorEntry("F32", (3, 4)),
        "b": TensorEntry("I64", (2,)),
        "scalar": TensorEntry("F32", ()),
    }
    assert header.metadata == {"format": "pt"}
    assert header.size_bytes == (tmp_path / "m.safetensors").stat().st_size


def test_a_header_that_would_exhaust_the_memory_is_not_parsed(tmp_path):
    """The API parses headers in its own process; each three bytes here take 56 bytes of memory."""
    header = b'{"a":[' + b"[]," * 3_000_000 + b"[]]}"
    file = tmp_path / "m.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)

    with pytest.raises(ModelHeaderInvalid, match=r"9,000,010 bytes, at most 8,388,608 are read"):
        read_header(file)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x80\x04\x95" + b"0" * 64,
        pickle.dumps({"a": 1}),
        zipped(),
        save(STATE)[:-1],
        save(STATE) + b"0",
        (10**15).to_bytes(8, "little") + b"{}",
        (20).to_bytes(8, "little") + b"[" * 20,
        headed([]),
        headed({}),
        headed({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"0000"),
        headed({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"0000"),
        headed({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}),
        headed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"0" * 8),
        headed({"a": 3}, b"0" * 8),
    ],
)
def test_other_files_are_refused(content):
    with pytest.raises(UnsupportedMedia, match=r"safetensors\.torch\.save_file"):
        read_header(content)


@pytest.mark.parametrize("first_bytes", [b"\x80", b"PK", b"\x1f\x8b", b"BZ"])
def test_a_length_that_looks_like_a_pickle_opcode_is_accepted(first_bytes):
    length = int.from_bytes(first_bytes, "little")
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(length)

    assert list(read_header(length.to_bytes(8, "little") + text + b"0000").tensors) == ["a"]


def test_overlapping_tensors_are_refused():
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}

    with pytest.raises(UnsupportedMedia, match="overlap"):
        read_header(headed({"a": entry, "b": entry}, b"0000"))


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')

    with pytest.raises(WeightsMismatch, match="not a stored model"):
        read_model_info(tmp_path)
