"""The check of an upload. `tests/worker/ingest/test_parent.py` runs it in its own process."""

import json

import timm
from safetensors.torch import save_file

from core.models.upload_check import Upload, check


def test_a_valid_upload_returns_a_document_of_its_model(tmp_path, tiny_vit):
    arguments = {**tiny_vit, "img_size": 8, "num_classes": 3}
    save_file(timm.create_model("vit_tiny_patch16_224", **arguments).state_dict(), tmp_path / "m.safetensors")
    upload = {
        "file": str(tmp_path / "m.safetensors"),
        "architecture": "vit_tiny_patch16_224",
        "arguments": arguments,
        "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        "classes": ["a", "b", "c"],
        "out_folder": str(tmp_path / "model"),
    }

    info = json.loads(json.dumps(check(Upload.model_validate(upload))))["ok"]
    assert info["parameters"] > 20_000
    assert info["classes"] == ["a", "b", "c"]
    assert (tmp_path / "model" / "config.json").is_file()


def test_an_invalid_upload_returns_an_error(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"\x80\x04")
    upload = {"file": str(tmp_path / "m.safetensors"), "architecture": "resnet18", "out_folder": str(tmp_path / "o")}

    assert check(Upload.model_validate(upload))["error"]["code"] == "model_not_safetensors"
