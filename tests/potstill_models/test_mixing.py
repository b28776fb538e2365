import torch

from potstill_models.attention import SharedAttention
from potstill_models.mixing import HeadMixing, LocalConvolution, RelativeKeys, relative_buckets


def test_near_positions_have_separate_buckets_and_far_ones_share():
    """Along one axis: exact up to 1, then logarithmic, at most 3."""
    bucket, count = relative_buckets((1, 20), 0)
    columns = [int(b) - 3 * 7 - 3 for b in bucket[:, 0]]

    assert count == 49
    assert columns == [0, 1, 2, 2] + [3] * 16  # 1.9 + 1.9 ln(d / 1.9) / ln 8: 2 at 3, 2.6 at 4
    assert int(bucket[0, 1]) - 3 * 7 - 3 == -1


def test_rows_and_columns_have_different_buckets():
    bucket, _ = relative_buckets((2, 2), 0)

    assert bucket.tolist() == [[24, 23, 17, 16], [25, 24, 18, 17], [31, 30, 24, 23], [32, 31, 25, 24]]


def test_prefix_tokens_share_an_additional_bucket():
    bucket, count = relative_buckets((2, 2), 2)

    assert count == 50
    assert set(bucket[:2].flatten().tolist()) | set(bucket[:, :2].flatten().tolist()) == {49}


def test_relative_keys_are_the_query_times_the_entry_of_the_bucket():
    relative = RelativeKeys(3, grid_size=(1, 2), num_prefix_tokens=1)
    with torch.no_grad():
        relative.table.copy_(torch.randn(3, 50))
    q = torch.randn(2, 4, 3, 3)
    scores = relative(q)

    for row in range(3):
        for column in range(3):
            entry = relative.table[:, relative.bucket[row, column]]
            assert torch.allclose(scores[:, :, row, column], q[:, :, row] @ entry, atol=1e-6)


def test_transforms_mix_heads_before_and_after_the_softmax():
    torch.manual_seed(0)
    attention = SharedAttention(8, head_dim=4, value_dims=[4, 4])
    mixing = HeadMixing(2, transforms=True, relative=None)
    x = torch.randn(1, 5, 8)
    q, k, v = attention.split(x)
    scores = q @ k.transpose(-2, -1) / 2
    mixed = torch.einsum("gh,bhij->bgij", mixing.conv_l.weight[:, :, 0, 0], scores).softmax(-1)
    weights = torch.einsum("gh,bhij->bgij", mixing.conv_w.weight[:, :, 0, 0], mixed)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(1, 5, 8))

    assert torch.allclose(attention(x, mixing), expected, atol=1e-6)


def test_transforms_are_initialized_near_zero():
    torch.manual_seed(0)
    mixing = HeadMixing(12, transforms=True, relative=None)
    mixing.init_weights()

    assert 0.01 < mixing.conv_l.weight.std() < 0.03


def test_transforms_that_start_at_identity_change_nothing():
    torch.manual_seed(0)
    attention = SharedAttention(8, head_dim=4, value_dims=[4, 4])
    mixing = HeadMixing(2, transforms=True, relative=None, bias=True, start="identity")
    mixing.init_weights()
    x = torch.randn(1, 5, 8)

    assert torch.allclose(attention(x, mixing), attention(x), atol=1e-6)


def test_a_local_convolution_that_starts_at_identity_is_zero():
    local = LocalConvolution(3, norm_layer=torch.nn.LayerNorm, bias=True, start="identity")
    local.init_weights()
    x = torch.randn(1, 9, 9, 3)

    assert torch.equal(local(x), local.norm(x))


def test_a_bias_of_the_transforms_is_initialized_with_zero():
    mixing = HeadMixing(4, transforms=True, relative=None, bias=True)
    mixing.init_weights()

    assert torch.equal(mixing.conv_l.bias, torch.zeros(4))
    assert HeadMixing(4, transforms=True, relative=None).conv_w.bias is None


def test_a_local_convolution_adds_a_depthwise_convolution_to_the_normalized_map():
    torch.manual_seed(0)
    local = LocalConvolution(3, norm_layer=torch.nn.LayerNorm, bias=True)
    x = torch.randn(1, 9, 9, 3)
    normed = local.norm(x)
    cell = normed[0, 1:8, 1:8]  # around (4, 4), all 49 of it
    expected = normed[0, 4, 4] + (local.conv.weight[:, 0].permute(1, 2, 0) * cell).sum((0, 1)) + local.conv.bias

    assert torch.allclose(local(x)[0, 4, 4], expected, atol=1e-5)
    assert local(x).shape == x.shape
