import json
import subprocess
import sys

import timm
from safetensors.torch import save_file


def run(upload):
    done = subprocess.run(
        [sys.executable, "-m", "core.models.upload_check"], input=json.dumps(upload), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_separate_process_returns_json(tmp_path, tiny_vit):
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

    facts = run(upload)["ok"]
    assert facts["parameters"] > 20_000
    assert facts["classes"] == ["a", "b", "c"]
    assert (tmp_path / "model" / "config.json").is_file()


def test_an_invalid_upload_returns_an_error(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"\x80\x04")
    upload = {"file": str(tmp_path / "m.safetensors"), "architecture": "resnet18", "out_folder": str(tmp_path / "o")}

    assert run(upload)["error"]["code"] == "model_not_safetensors"
