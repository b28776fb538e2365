import pytest
import timm
import torch

import potstill_models  # noqa: F401 - the name under test

PLAIN = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 4, "num_classes": 5}
OPTIONS = {
    "plain": {},
    "tokens": {"distillation_tokens": 3},
    "tokens without positions": {"distillation_tokens": 2, "no_embed_class": True},
    "convolutions": {"stem": "conv"},
    "convolutions with a token": {"stem": "conv", "distillation_tokens": 1},
    "votes of patches": {"distillation_tokens": 1, "patch_vote": True},
    "two stems": {"distillation_tokens": 2, "stem": "co_advise"},
    "two stems, odd patches": {"distillation_tokens": 2, "stem": "co_advise", "img_size": 14, "patch_size": 7},
    "repeats": {"repeats": 2},
    "multiplexed": {
        "repeats": 2, "head_transforms": True, "relative_position": True, "class_token": False, "global_pool": "avg",
        "init_values": 0.1,
    },
    "multiplexed with tokens": {
        "repeats": 4, "head_transforms": True, "relative_position": True, "distillation_tokens": 1,
    },
    "cut": {
        "block_heads": [1, 2, 3, 4], "block_dims": [[3], [8, 8], [2, 5, 8], [8, 8, 4, 1]],
        "block_hidden": [5, 7, 9, 128],
    },
    "heads that do not fill the width": {"embed_dim": 30, "head_dim": 6, "num_heads": 4},
    "cut and repeated": {"repeats": 2, "head_transforms": True, "block_heads": [1, 3], "block_hidden": [4, 6]},
    "lifted": {"lift_width": 48, "global_pool": "avg"},
    "heads per block": {"heads_per_block": [4, 4, 2, 8]},
    "wide last": {"wide_last": 48},
    "wide last, lifted, with a token": {
        "wide_last": 60, "wide_last_heads": 3, "lift_width": 10, "distillation_tokens": 1,
    },
    "local": {"local_blocks": 2, "distillation_tokens": 1},
    "local and cut": {"local_blocks": 2, "block_heads": [3, 3, 3, 3]},
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=OPTIONS, ids=str)
def options(request):
    """Arguments of a tiny ViT with one set of options."""
    return {**PLAIN, **OPTIONS[request.param]}


@pytest.fixture
def build():
    """A tiny ``potstill_vit`` with the given arguments, in evaluation mode; the same weights every time."""

    def make(**arguments):
        torch.manual_seed(0)
        return timm.create_model("potstill_vit", **{**PLAIN, **arguments}).eval()

    return make


@pytest.fixture
def images():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
