import pytest
import torch


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
