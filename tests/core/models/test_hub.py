import http.server
import threading
import time

import pytest
import timm
import torch
from safetensors.torch import save_file

from core.errors import WeightsUnavailable
from core.models import hub
from core.models.build import build_student
from core.models.plan import plan_student
from core.spec import StudentSpec
from core.spec.info import InputInfo
from tests.support.ports import free_port

NAME = "test_vit.r160_in1k"
COMMIT = "0" * 40


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server with the Hub's protocol for the files of a folder; returns the folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Hub(http.server.BaseHTTPRequestHandler):
        def answer(self):
            file = folder / self.path.rpartition("/resolve/main/")[2]
            content = file.read_bytes() if self.path != "/" and file.is_file() else b""
            self.send_response(200 if content or self.path == "/" else 404)
            self.send_header("ETag", '"abc"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            return content

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.wfile.write(self.answer())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(hub.constants, "ENDPOINT", endpoint)  # what HF_ENDPOINT sets, which is read at import
    monkeypatch.setattr(
        hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield folder
    server.shutdown()
    server.server_close()


def test_cached_weights_are_used_without_a_request_to_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(hub.constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    snapshot = tmp_path / "models--timm--test_vit.r160_in1k" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(COMMIT)
    (snapshot / "model.safetensors").write_bytes(b"x")

    assert hub.pretrained_weights(NAME, hub=tmp_path) == snapshot / "model.safetensors"


def test_an_unreachable_hub_fails_fast(tmp_path, monkeypatch):
    monkeypatch.setattr(hub.constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(WeightsUnavailable, match="cannot be reached from this machine; fill the hub's cache"):
        hub.pretrained_weights("resnet18", hub=tmp_path)

    assert time.monotonic() - began < 3


def test_offline_mode_is_respected(tmp_path, monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(WeightsUnavailable, match="HF_HUB_OFFLINE"):
        hub.pretrained_weights("resnet18", hub=tmp_path)


def test_weights_are_downloaded_and_cached(tmp_path, served):
    save_file(timm.create_model("test_vit").state_dict(), served / "model.safetensors")
    path = hub.pretrained_weights(NAME, hub=tmp_path / "cache")

    assert path.read_bytes() == (served / "model.safetensors").read_bytes()
    (served / "model.safetensors").unlink()
    assert hub.pretrained_weights(NAME, hub=tmp_path / "cache") == path


def test_a_pickle_is_never_downloaded(tmp_path, served):
    (served / "pytorch_model.bin").write_bytes(b"\x80\x04")

    with pytest.raises(WeightsUnavailable, match="unsupported format"):
        hub.pretrained_weights(NAME, hub=tmp_path / "cache")


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224.augreg_in21k",  # 21,843 classes
        "vit_tiny_r_s16_p8_224.augreg_in21k_ft_in1k",  # a hybrid, whose stem is a CNN
        pytest.param("flexivit_small.300ep_in1k", marks=pytest.mark.slow),
        pytest.param("resnetv2_50x1_bit.goog_in21k_ft_in1k", marks=pytest.mark.slow),
    ],
)
def test_checkpoints_whose_originals_are_numpy_archives_are_loaded_as_timm_loads_them(name, tmp_path, served):
    published = timm.create_model(name)
    save_file(published.state_dict(), served / "model.safetensors")
    plan = plan_student(
        StudentSpec(architecture=name, weights="pretrained"), InputInfo(num_classes=3, channels=1, image_size=32)
    )
    built = build_student(plan, hub=tmp_path / "cache")

    overlay = {"file": str(served / "model.safetensors")}
    size = {"img_size": plan.image_size} if "img_size" in plan.arguments else {}
    expected = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3, in_chans=1, **size
    )
    heads = expected.pretrained_cfg["classifier"]
    state = built.module.state_dict()
    assert all(torch.equal(state[n], t) for n, t in expected.state_dict().items() if not n.startswith(heads))
    assert built.num_classes == 3


def test_pos_embed_and_first_convolution_are_adapted(tmp_path, served):
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    published = timm.create_model(name)
    save_file(published.state_dict(), served / "model.safetensors")
    spec = StudentSpec(architecture=name, weights="pretrained", arguments={"img_size": 64})
    built = build_student(plan_student(spec, InputInfo(num_classes=3, channels=1, image_size=32)), hub=tmp_path)

    state, own = built.module.state_dict(), published.state_dict()
    assert state["pos_embed"].shape == (1, 1 + 4 * 4, 192)
    assert torch.equal(state["pos_embed"][:, :1], own["pos_embed"][:, :1])  # of the class token
    torch.testing.assert_close(
        state["patch_embed.proj.weight"], own["patch_embed.proj.weight"].sum(dim=1, keepdim=True)
    )
    assert torch.equal(state["blocks.0.attn.qkv.weight"], own["blocks.0.attn.qkv.weight"])


def test_weights_that_exist_only_as_a_pickle_are_refused_without_a_request(tmp_path):
    with pytest.raises(WeightsUnavailable, match="only as a pickle"):
        hub.pretrained_weights("gcvit_xxtiny", hub=tmp_path)


def test_a_model_without_pretrained_weights_is_refused(tmp_path):
    with pytest.raises(WeightsUnavailable, match="There are no pretrained weights for vit_small_patch16_36x1_224"):
        hub.pretrained_weights("vit_small_patch16_36x1_224", hub=tmp_path)
