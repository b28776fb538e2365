"""Hostile weight files for a tiny ViT."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import timm
import torch
from safetensors.torch import save

ARCHITECTURE = "vit_tiny_patch16_224"
ARGUMENTS = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}


@dataclass(frozen=True)
class Case:
    """A file and its expected error code; None if it is valid.

    ``at_upload``: the API rejects the file; otherwise the model check does.
    """

    build: Callable[[], bytes]
    code: str | None
    at_upload: bool


CASES: dict[str, Case] = {}


def refused(code):
    """Register a builder whose file the API rejects at upload."""
    return lambda build: _register(build, code, at_upload=True)


def fails(code):
    """Register a builder whose file fails in the model check."""
    return lambda build: _register(build, code, at_upload=False)


def _register(build, code, *, at_upload):
    assert build.__name__ not in CASES
    CASES[build.__name__] = Case(build, code, at_upload)
    return build


@cache
def _weights():
    torch.manual_seed(0)
    return timm.create_model(ARCHITECTURE, **ARGUMENTS).state_dict()


def weights(**changes):
    """The valid state dict with these tensors replaced."""
    changed = {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {**{name: tensor.clone() for name, tensor in _weights().items()}, **changed}


def with_header(header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape=(1,), offsets=(0, 4), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


# --- other file formats -----------------------------------------------------------------------


@refused("model_not_safetensors")
def pickle_of_an_object():
    return pickle.dumps({"a": np.zeros(3)})


@refused("model_not_safetensors")
def pickle_that_runs_code():
    class Evil:
        def __reduce__(self):
            return print, ("never",)

    return pickle.dumps(Evil())


@refused("model_not_safetensors")
def checkpoint_of_torch():
    out = io.BytesIO()
    torch.save(weights(), out)
    return out.getvalue()


@refused("model_not_safetensors")
def checkpoint_of_old_torch():
    out = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


@refused("model_not_safetensors")
def onnx_model():
    return b"\x08\x08\x12\x07pytorch\x1a\x052.8.0:\x10" + b"\0" * 200


@refused("model_not_safetensors")
def arrays_of_numpy():
    out = io.BytesIO()
    np.savez(out, a=np.zeros(3))
    return out.getvalue()


@refused("model_not_safetensors")
def hdf5():
    return b"\x89HDF\r\n\x1a\n" + b"\0" * 200


@refused("model_not_safetensors")
def gguf():
    return b"GGUF" + struct.pack("<I", 3) + b"\0" * 200


@refused("model_not_safetensors")
def zip_called_safetensors():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("model.safetensors", save(weights()))
    return out.getvalue()


@refused("model_not_safetensors")
def text():
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


# --- invalid headers ----------------------------------------------------------------------------


@refused("model_not_safetensors")
def header_longer_than_the_file():
    return with_header({"a": entry()}, b"0000", length=10**6)


@refused("model_not_safetensors")
def header_of_nine_exabytes():
    return with_header({"a": entry()}, b"0000", length=2**63)


@refused("model_not_safetensors")
def header_of_zero_bytes():
    return with_header({"a": entry()}, b"0000", length=0)


@refused("model_not_safetensors")
def truncated_header():
    return with_header({"a": entry()}, b"0000", length=10)


@refused("model_not_safetensors")
def header_of_endless_depth():
    return with_header(b'{"a":' * 100_000)


@refused("model_not_safetensors")
def header_that_is_a_list():
    return with_header(b'{"a": 1}[]')


@refused("model_header_invalid")
def header_without_tensors():
    return with_header({"__metadata__": {"format": "pt"}})


@refused("model_header_invalid")
def tensors_that_overlap():
    return with_header({"a": entry(), "b": entry()}, b"0000")


@refused("model_header_invalid")
def tensors_with_a_gap():
    return with_header({"a": entry(), "b": entry(offsets=(8, 12))}, b"0" * 12)


@refused("model_header_invalid")
def tensors_that_go_beyond_the_file():
    return with_header({"a": entry((2**20,), (0, 2**22))}, b"0000")


@refused("model_header_invalid")
def bytes_outside_every_tensor():
    return save(weights()) + b"0" * 100


@refused("model_header_invalid")
def truncated_file():
    return save(weights())[:-100]


@refused("model_header_invalid")
def tensor_of_an_unknown_type():
    return with_header({"a": entry(dtype="F13")}, b"0000")


@refused("model_header_invalid")
def tensor_of_a_negative_size():
    return with_header({"a": entry((-1,), (0, -4))})


@refused("model_header_invalid")
def tensor_of_a_fractional_size():
    return with_header({"a": entry((1.5,), (0, 6))}, b"0" * 6)


@refused("model_header_invalid")
def tensor_of_nan_size():
    return with_header(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, Infinity]}}')


@refused("model_header_invalid")
def tensor_of_a_million_dimensions():
    return with_header({"a": entry([99] * 1_000_000)}, b"0000")


@refused("model_header_invalid")
def tensor_with_sizes_of_four_thousand_digits():
    return with_header(
        b'{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 4]}}' % b",".join([b"9" * 4000] * 60)
    )


@refused("model_header_invalid")
def tensor_named_twice():
    text = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
    return with_header(text + text[1:-2] + b"}", b"0000")


@refused("model_header_invalid")
def tensor_that_is_a_string():
    return with_header({"a": "all of it"}, b"0000")


@refused("model_header_invalid")
def a_hundred_thousand_and_one_tensors():
    return with_header({str(i): entry((0,), (0, 0)) for i in range(100_001)})


# --- valid files with invalid weights ----------------------------------------------------------------


@fails("model_not_finite")
def weights_with_a_nan():
    broken = _weights()["head.weight"].clone()
    broken[0, 0] = float("nan")
    return save(weights(head__weight=broken))


@fails("model_not_finite")
def weights_with_an_infinity():
    broken = _weights()["norm.bias"].clone()
    broken[-1] = float("-inf")
    return save(weights(norm__bias=broken))


@fails("model_not_finite")
def weights_with_nan_outputs():
    return save({name: torch.full_like(tensor, 3e38) for name, tensor in weights().items()})


@fails("weights_mismatch")
def weights_of_another_shape():
    return save(weights(head__weight=torch.zeros(7, 16)))


@fails("weights_mismatch")
def weights_without_a_head():
    return save({name: tensor for name, tensor in weights().items() if not name.startswith("head")})


@fails("weights_mismatch")
def weights_with_an_extra_tensor():
    return save(weights(extra=torch.zeros(3)))


@fails("weights_mismatch")
def weights_of_empty_tensors():
    return save({name: torch.zeros(0) for name in weights()})


@fails("weights_mismatch")
def weights_with_names_that_lead_outside():
    return save({f"../../{name}": tensor for name, tensor in weights().items()})


@fails(None)
def valid_weights():
    return save(weights())


@fails(None)
def weights_of_half_precision():
    return save({name: tensor.half() for name, tensor in weights().items()})
