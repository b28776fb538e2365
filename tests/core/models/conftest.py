import pytest
import timm
import torch
from safetensors.torch import save_file


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_vit():
    """Arguments of a ViT with 27 thousand parameters."""
    return {"patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture
def hub(tmp_path):
    """A local Hugging Face cache with random weights of timm's smallest ViT; returns its folder and the model."""
    model = timm.create_model("test_vit").eval()
    repo = tmp_path / "hub" / "models--timm--test_vit.r160_in1k"
    (repo / "snapshots" / "1").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("1")
    save_file(model.state_dict(), repo / "snapshots" / "1" / "model.safetensors")
    return tmp_path / "hub", model
