"""Shared Swin blocks: values of the authors' code, shared weights, and separate parts of each run."""

import pytest
import torch
from timm.models.swin_transformer import SwinTransformerBlock

from potstill_models import SwinOptions
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
ALL_OPTIONS = SwinOptions(repeats=2, head_transforms=True, local_convolution=True)


def block(options=ALL_OPTIONS, *, size=4, window=2, drop_paths=(0.0, 0.0), first_run=0):
    torch.manual_seed(0)
    return MultiplexedSwinBlock(
        options, first_run=first_run, drop_paths=drop_paths, dim=8, input_resolution=(size, size), num_heads=2,
        window_size=(window, window),
    ).eval()  # fmt: skip


@torch.no_grad()
def randomize(module):
    """Move weights far from their initialization, so that no part is close to zero."""
    for weight in module.parameters():
        weight.add_(torch.randn_like(weight) * 0.3)
    return module


def ours(name):
    part, _, rest = name.partition(".")
    if part not in OURS:
        return name
    run, _, kind = rest.partition(".")
    return f"runs.{run}.{OURS[part]}.{kind}"


@torch.no_grad()
def fill_golden(module):
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


def run_hooked(module, x_BND):
    """Return the block's output, the first run's output, and q, k and v of each run; maps of 4 × 4 as tokens."""
    hidden, qkv = [], []
    hooks = [run.register_forward_hook(lambda *found: hidden.append(found[-1])) for run in module.runs]
    hooks.append(module.attn.qkv.register_forward_hook(lambda *found: qkv.append(found[-1].chunk(3, dim=-1))))
    out = module(x_BND.unflatten(1, (4, 4)))
    for hook in hooks:
        hook.remove()
    return out.flatten(1, 2), hidden[0].flatten(1, 2), qkv


def test_a_shared_block_reproduces_the_authors_code(golden):
    module = fill_golden(block())
    out, hidden, qkv = run_hooked(module, golden)
    found = [out.sum(), out.abs().mean(), hidden.sum(), qkv[0][0].sum(), qkv[1][2].sum()]
    expected = [-18.572694778, 2.337442398, 13.385672569, -26.304260254, -15.071270943]
    (slope,) = torch.autograd.grad(sum(found), golden)

    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-5)
    assert slope.norm().item() == pytest.approx(24.844200701, rel=1e-5)
    assert qkv[0][0].shape == (8, 4, 8)
    assert sum(weight.numel() for weight in module.parameters()) == 1778


def timms(*, size, window, shifted):
    """timm's block that equals one run."""
    return SwinTransformerBlock(8, (size, size), num_heads=2, window_size=window, shift_size=window // 2 * shifted)


def unrolled(module, *, size, window, masked=True):
    """timm's blocks with the weights of each run. ``masked``: unshifted ones use the mask too."""
    blocks = []
    for run in module.runs:
        one = timms(size=size, window=window, shifted=run.shifted).eval()
        parts = {"norm1": run.norm1, "norm2": run.norm2, "attn": module.attn, "mlp": module.mlp}
        for name, part in parts.items():
            getattr(one, name).load_state_dict(part.state_dict())
        if masked:
            one.attn_mask = module.attn_mask
        blocks.append(one)
    return torch.nn.Sequential(*blocks)


@pytest.mark.parametrize(("size", "window"), [(4, 2), (4, 4), (5, 2), (7, 3), (2, 4)])
def test_repeats_equal_timms_blocks_with_the_mask_in_all_of_them(size, window):
    """Grids of several windows, of one window, and with padding."""
    module = randomize(block(SwinOptions(repeats=2), size=size, window=window))
    x = torch.randn(2, size, size, 8)

    assert torch.allclose(module(x), unrolled(module, size=size, window=window)(x), atol=1e-5)


def test_unshifted_runs_use_the_mask_as_in_the_authors_code():
    module = randomize(block(SwinOptions(repeats=2)))
    x = torch.randn(2, 4, 4, 8)

    assert not torch.allclose(module(x), unrolled(module, size=4, window=2, masked=False)(x), atol=1e-3)


def test_a_stage_of_one_window_has_neither_shift_nor_mask():
    module = block(size=2, window=4)

    assert (module.window_size, module.shift_size, module.attn_mask) == ((2, 2), (0, 0), None)


def test_a_run_without_transforms_has_only_norms():
    names = {name.partition("runs.0.")[2] for name in block(SwinOptions(repeats=2)).state_dict() if "runs.0." in name}

    assert names == {"norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"}


def test_the_runs_of_a_stage_alternate_between_unshifted_and_shifted():
    options = {"dim": 8, "input_resolution": (4, 4), "num_heads": 2, "window_size": (2, 2)}
    blocks = multiplexed_blocks(SwinOptions(repeats=3), drop_paths=[0.0, 0.1, 0.2, 0.3, 0.4, 0.5], **options)

    assert [[run.shifted for run in one.runs] for one in blocks] == [[False, True, False], [True, False, True]]
    assert [[getattr(run.drop_path1, "drop_prob", 0.0) for run in one.runs] for one in blocks] == [
        [0.0, 0.1, 0.2], [0.3, 0.4, 0.5],
    ]  # fmt: skip


def test_a_stage_with_fewer_blocks_than_repeats_stores_one():
    options = {"dim": 8, "input_resolution": (4, 4), "num_heads": 2, "window_size": (2, 2)}

    assert [len(one.runs) for one in multiplexed_blocks(SwinOptions(repeats=6), drop_paths=[0.0] * 2, **options)] == [2]


def test_a_run_changes_its_own_output_and_later_ones():
    module = block()
    x = torch.randn(2, 16, 8)
    before, first, _ = run_hooked(module, x)
    with torch.no_grad():
        module.runs[1].local.conv.bias += torch.linspace(-1, 1, 8)
    after, same, _ = run_hooked(module, x)

    assert torch.equal(first, same)
    assert not torch.allclose(before, after)


def test_a_dynamic_mask_equals_the_registered_one():
    module, x = randomize(block()), torch.randn(2, 4, 4, 8)
    stored = module(x)
    module.dynamic_mask = True

    assert torch.equal(module(x), stored)


def test_masks_are_not_saved():
    assert not any("mask" in name or "index" in name for name in block().state_dict())
