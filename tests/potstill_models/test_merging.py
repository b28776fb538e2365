"""Token merging: which tokens become one, their sizes, and the ViT that merges."""

import pytest
import timm
import torch

from potstill_models.merging import MergingAttention, merge_tokens
from tests.potstill_models.conftest import PLAIN

MERGED = [2, 0, 3, 1]
# Four patches after a class token: the first two keys of one direction, the last two of another.
KEYS = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [1.0, 0.1], [-1.0, 1.0], [-1.0, 1.3]]])
TOKENS = torch.tensor([[[9.0], [1.0], [2.0], [4.0], [8.0]]])


def test_the_most_similar_pairs_become_their_mean():
    tokens, sizes = merge_tokens(TOKENS, KEYS, None, merged=1, num_prefix_tokens=1)

    # Patches 1 and 0 have a cosine of 0.995, patches 3 and 2 of 0.991; the second set stands last.
    assert tokens.flatten().tolist() == [9.0, 8.0, 1.5, 4.0]
    assert sizes.flatten().tolist() == [1, 1, 2, 1]


def test_a_second_merge_weights_tokens_by_their_size():
    sizes = torch.tensor([[1.0, 1.0, 3.0, 1.0, 1.0]])

    tokens, after = merge_tokens(TOKENS, KEYS, sizes, merged=2, num_prefix_tokens=1)

    assert tokens.flatten().tolist() == [9.0, (1 + 3 * 2) / 4, 6.0]
    assert after.flatten().tolist() == [1, 4, 2]


@pytest.mark.parametrize("prefix", [0, 1, 2, 3])
def test_nothing_is_lost_and_prefix_tokens_stay(prefix):
    generator = torch.Generator().manual_seed(0)
    x, keys = torch.randn(2, prefix + 9, 3, generator=generator), torch.randn(2, prefix + 9, 4, generator=generator)

    tokens, sizes = merge_tokens(x, keys, None, merged=4, num_prefix_tokens=prefix)

    assert tokens.shape == (2, prefix + 5, 3)
    assert torch.equal(tokens[:, :prefix], x[:, :prefix])
    assert sizes.sum(dim=1).tolist() == [prefix + 9] * 2
    torch.testing.assert_close((tokens * sizes[..., None]).sum(dim=1), x.sum(dim=1))


def test_attention_to_a_merged_token_equals_attention_to_its_equal_parts():
    torch.manual_seed(0)
    attention = MergingAttention(12, head_dim=4, value_dims=[4, 4, 4], qkv_bias=True).eval()
    x = torch.randn(1, 3, 12)
    repeated = torch.cat([x, x[:, 2:]], dim=1)

    merged, _ = attention(x, torch.tensor([[1.0, 1.0, 2.0]]))
    full, _ = attention(repeated)

    torch.testing.assert_close(merged, full[:, :3])
    attention.fused_attn = False
    torch.testing.assert_close(attention(x, torch.tensor([[1.0, 1.0, 2.0]]))[0], full[:, :3])


def test_a_vit_that_merges_no_token_equals_the_plain_one(build, images):
    plain, merging = build(init_values=0.1), build(init_values=0.1, merged_tokens=[0, 0, 0, 0])

    merging.load_state_dict(plain.state_dict(), strict=True)
    torch.testing.assert_close(merging(images), plain(images))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"distillation_tokens": 1, "patch_vote": True},
        {"class_token": False, "global_pool": "avg"},
        {"block_heads": [1, 2, 3, 4], "block_hidden": [5, 7, 9, 128], "embed_dim": 30, "head_dim": 8},
        {"heads_per_block": [4, 4, 2, 8]},
    ],
)
def test_tokens_are_fewer_and_any_batch_size_works(build, images, options):
    model = build(**options, merged_tokens=MERGED)
    seen = []
    for block in model.blocks:
        block.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))

    logits = model(images)

    prefix = model.num_prefix_tokens
    assert seen == [prefix + patches for patches in (14, 14, 11, 10)]
    assert logits.shape == (3, 5)
    torch.testing.assert_close(model(images[1:2]), logits[1:2])


def test_equal_patches_can_be_merged_without_a_change(build):
    """All patches of an even image are equal; their mean over patches is that of the merged tokens."""
    options = {"class_token": False, "global_pool": "avg"}
    plain, merging = build(**options), build(**options, merged_tokens=[8, 4, 2, 1])
    plain.pos_embed.data.zero_()
    merging.load_state_dict(plain.state_dict())
    even = torch.full((1, 3, 16, 16), 0.3)

    torch.testing.assert_close(merging(even), plain(even))


def test_a_merging_vit_is_traced_with_fixed_shapes_for_any_batch(build, images):
    model = build(merged_tokens=MERGED)
    batch = torch.export.Dim("batch", min=1, max=64)
    traced = torch.export.export(model, (images[:2],), dynamic_shapes=({0: batch},)).module()

    torch.testing.assert_close(traced(images), model(images))


def test_a_merging_vit_can_be_trained(build, images):
    model = build(merged_tokens=MERGED).train()
    model.set_grad_checkpointing(True)
    model(images).square().sum().backward()

    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merged_tokens": [9, 0, 0, 0]}, "half of the 16 tokens"),
        ({"merged_tokens": [8, 5, 0, 0]}, "half of the 8 tokens"),
        ({"merged_tokens": [1]}, "1 entries"),
        ({"merged_tokens": [1, 1], "repeats": 2}, "plain blocks"),
        ({"merged_tokens": MERGED, "local_blocks": 1}, "plain blocks"),
    ],
)
def test_impossible_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model("potstill_vit", **{**PLAIN, **options})


def test_merged_tokens_form_no_map(build, images):
    with pytest.raises(ValueError, match="no map"):
        build(merged_tokens=MERGED).forward_intermediates(images)
