"""Shared Swin blocks: the numbers of the authors' code, what is stored once, and what each run has for itself."""

import pytest
import torch
from timm.models.swin_transformer import SwinTransformerBlock

from potstill_models import SwinForm
from potstill_models.swin_blocks import MultiplexedSwinBlock, multiplexed_blocks

# Our names of the weights of the authors' SwinTransformerBlockDISTILL.
OURS = {
    "norm1_list": "norm1", "norm2_list": "norm2", "local_norm_list": "local.norm", "local_conv_list": "local.conv",
    "proj_l": "mixing.conv_l", "proj_w": "mixing.conv_w",
}  # fmt: skip
SHARED = ["attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2"]
AUTHORS = sorted(
    [f"{part}.{kind}" for part in SHARED for kind in ("weight", "bias")]
    + ["attn.relative_position_bias_table"]
    + [f"{part}.{run}.{kind}" for part in OURS for run in (0, 1) for kind in ("weight", "bias")]
)
WHOLE = SwinForm(repeats=2, head_transforms=True, local_convolution=True)


def block(form=WHOLE, *, size=4, window=2, drop_paths=(0.0, 0.0), first_run=0):
    torch.manual_seed(0)
    return MultiplexedSwinBlock(
        form, first_run=first_run, drop_paths=drop_paths, dim=8, input_resolution=(size, size), num_heads=2,
        window_size=(window, window),
    ).eval()  # fmt: skip


def ours(name):
    part, _, rest = name.partition(".")
    if part not in OURS:
        return name
    run, _, kind = rest.partition(".")
    return f"runs.{run}.{OURS[part]}.{kind}"


@torch.no_grad()
def filled(module):
    """The golden values' weights: 0.3 sin(0.7 j + i) for entry j of the authors' parameter i, and 1 more in norms."""
    weights = dict(module.named_parameters())
    for number, name in enumerate(AUTHORS):
        weight = weights.pop(ours(name))
        value = 0.3 * (0.7 * torch.arange(weight.numel(), dtype=torch.float64) + number).sin()
        weight.copy_(value.float().view_as(weight))
        if "norm" in name and name.endswith("weight"):
            weight.add_(1)
    assert weights == {}
    return module


@pytest.fixture
def golden():
    """The input of the golden case."""
    torch.manual_seed(0)
    x_BND = torch.randn(2, 16, 8)
    assert x_BND.sum().item() == pytest.approx(6.590076, rel=1e-6), "another draw"
    return x_BND.requires_grad_()


def seen(module, x_BND):
    """What the block gives, its first run, and what q, k and v were in each run; maps of 4 × 4 as rows of tokens."""
    hidden, qkv = [], []
    hooks = [run.register_forward_hook(lambda *found: hidden.append(found[-1])) for run in module.runs]
    hooks.append(module.attn.qkv.register_forward_hook(lambda *found: qkv.append(found[-1].chunk(3, dim=-1))))
    out = module(x_BND.unflatten(1, (4, 4)))
    for hook in hooks:
        hook.remove()
    return out.flatten(1, 2), hidden[0].flatten(1, 2), qkv


def test_a_shared_block_gives_the_values_of_the_authors_code(golden):
    module = filled(block())
    out, hidden, qkv = seen(module, golden)
    found = [out.sum(), out.abs().mean(), hidden.sum(), qkv[0][0].sum(), qkv[1][2].sum()]
    expected = [-18.572694778, 2.337442398, 13.385672569, -26.304260254, -15.071270943]
    (slope,) = torch.autograd.grad(sum(found), golden)

    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-5)
    assert slope.norm().item() == pytest.approx(24.844200701, rel=1e-5)
    assert qkv[0][0].shape == (8, 4, 8)
    assert sum(weight.numel() for weight in module.parameters()) == 1778
