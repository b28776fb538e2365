import pytest
import torch
from timm.layers import Attention
from timm.models.swin_transformer import WindowAttention

from potstill_models.attention import (
    LocalAttention,
    SharedWindowAttention,
    SizedAttention,
    head_centers,
    patch_offsets,
)
from potstill_models.mixing import HeadMixing


@pytest.fixture
def tokens():
    return torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(0))


def test_a_narrow_head_equals_a_full_head_with_other_values_zero(tokens):
    """The removed dimensions are those that a full head multiplies by zero."""
    torch.manual_seed(0)
    dims, head_dim = [1, 4, 2], 4
    narrow = SizedAttention(12, head_dim=head_dim, value_dims=dims, qkv_bias=True)
    full = Attention(12, num_heads=3, qkv_bias=True)
    kept = [head * head_dim + i for head, width in enumerate(dims) for i in range(width)]
    with torch.no_grad():
        full.qkv.weight[:24], full.qkv.bias[:24] = narrow.qkv.weight[:24], narrow.qkv.bias[:24]
        rows = torch.tensor(kept) + 24
        full.qkv.weight[rows], full.qkv.bias[rows] = narrow.qkv.weight[24:], narrow.qkv.bias[24:]
        full.proj.weight.zero_()
        full.proj.weight[:, kept] = narrow.proj.weight
        full.proj.bias.copy_(narrow.proj.bias)

    assert narrow.qkv.weight.shape == (24 + 7, 12)
    assert narrow.proj.weight.shape == (12, 7)
    assert torch.allclose(narrow(tokens), full(tokens), atol=1e-6)


def test_full_heads_equal_timms_attention(tokens):
    sized, timms = SizedAttention(12, head_dim=4, value_dims=[4, 4, 4]), Attention(12, num_heads=3)
    timms.load_state_dict(sized.state_dict(), strict=True)

    assert torch.equal(sized(tokens), timms(tokens))


def test_a_mask_is_refused(tokens):
    with pytest.raises(ValueError, match="mask"):
        SizedAttention(12, head_dim=4, value_dims=[4])(tokens, is_causal=True)


def local(heads=4, prefix=2):
    torch.manual_seed(0)
    attention = LocalAttention(
        16, head_dim=16 // heads, value_dims=[16 // heads] * heads, grid_size=(2, 3), num_prefix_tokens=prefix
    )
    attention.init_weights()
    return attention


def test_a_square_number_of_heads_attends_to_the_cells_of_a_square():
    """ConViT's centers: an offset of half a patch with four heads, of one patch with nine."""
    assert head_centers(4) == [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]
    assert head_centers(9)[0] == [-1, -1]
    assert head_centers(9)[4] == [0, 0]
    assert head_centers(3) == [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5]]
    assert head_centers(1) == [[0, 0]]


def test_initial_scores_are_minus_the_squared_distance_from_the_cell():
    attention = local()
    offsets = patch_offsets((2, 3))
    scores = attention.pos_proj(offsets)
    center = torch.tensor(head_centers(4)[1])
    expected = -(offsets[..., :2] - center).square().sum(-1) + center.square().sum()

    assert torch.allclose(scores[..., 1], expected, atol=1e-5)
    assert torch.equal(attention.gating, torch.ones(4))
    assert offsets[0, 5].tolist() == [2, 1, 5]


def test_patches_attend_by_gated_position_and_tokens_by_content_only():
    """Entry by entry, from the formula."""
    attention = local()
    x = torch.randn(1, 8, 16)
    q, k, v = attention.split(x)
    content = (q @ k.transpose(-2, -1) / 2).softmax(-1)[0]
    place = attention.pos_proj(patch_offsets((2, 3))).permute(2, 0, 1).softmax(-1)
    gate = torch.sigmoid(torch.tensor(1.0))
    weights = content.clone()
    for head in range(4):
        for row in range(2, 8):
            for column in range(2, 8):
                weights[head, row, column] *= 1 - gate
                weights[head, row, column] += gate * place[head, row - 2, column - 2]
    weights = weights / weights.sum(-1, keepdim=True)
    expected = attention.proj((weights @ v[0]).transpose(0, 1).reshape(1, 8, 16))

    assert torch.allclose(weights[:, :2], content[:, :2], atol=1e-6)
    assert torch.allclose(attention(x), expected, atol=1e-5)


def test_a_closed_gate_gives_plain_attention():
    attention = local(prefix=0)
    timms = Attention(16, num_heads=4)
    timms.load_state_dict({n: w for n, w in attention.state_dict().items() if n.startswith(("qkv", "proj."))})
    with torch.no_grad():
        attention.gating.fill_(-100)
    x = torch.randn(2, 6, 16)

    assert torch.allclose(attention(x), timms(x), atol=1e-6)


def test_position_buffers_are_not_saved():
    assert set(local().state_dict()) == {
        "qkv.weight", "proj.weight", "proj.bias", "pos_proj.weight", "pos_proj.bias", "gating",
    }  # fmt: skip


@pytest.fixture
def windows():
    """Tokens of two images with three windows of four tokens each, and the mask of each window."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(3, 4, 4)
    mask[2, 0, 3] = mask[1, :, 2] = -100.0
    return torch.randn(6, 4, 8, generator=generator), mask


def shared():
    torch.manual_seed(0)
    attention = SharedWindowAttention(8, num_heads=2, window_size=(2, 2))
    mixing = HeadMixing(2, transforms=True, relative=None, bias=True)
    return attention, mixing


def test_window_attention_without_mixing_is_timms(windows):
    attention, _ = shared()
    timms = WindowAttention(8, num_heads=2, window_size=(2, 2))
    timms.load_state_dict(attention.state_dict(), strict=True)

    assert torch.equal(attention(*windows), timms(*windows))


def test_the_mask_is_added_after_the_first_transform(windows):
    """Entry by entry, from the formula."""
    attention, mixing = shared()
    x, mask = windows
    q, k, v = attention.qkv(x).reshape(6, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-2, -1) / 2 + attention._get_rel_pos_bias()
    first, second = mixing.conv_l, mixing.conv_w
    mixed = torch.einsum("gh,bhij->bgij", first.weight[:, :, 0, 0], scores) + first.bias[:, None, None]
    weights = torch.stack([(mixed[index] + mask[index % 3]).softmax(-1) for index in range(6)])
    weights = torch.einsum("gh,bhij->bgij", second.weight[:, :, 0, 0], weights) + second.bias[:, None, None]
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(6, 4, 8))

    assert torch.allclose(attention(x, mask, mixing), expected, atol=1e-6)
