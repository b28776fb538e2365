import pytest

from potstill_models import SwinOptions, VitOptions
from potstill_models.options import BlockSize

DIMENSIONS = {"embed_dim": 32, "depth": 4, "num_heads": 4}
POOLING = {"global_pool": "token", "class_token": True, "fc_norm": None, "patch_drop": 0.0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"distillation_tokens": -1}, "0 to 16"),
        ({"transform_start": "zero"}, "transform_start is random or identity, not 'zero'"),
        ({"distillation_tokens": 1000}, "0 to 16"),
        ({"stem": "involution"}, "patch, conv or co_advise"),
        ({"stem": "conv", "distillation_tokens": 2}, "set distillation_tokens to 0 or 1"),
        ({"stem": "co_advise"}, "set distillation_tokens to 2"),
        ({"repeats": 3}, "not a multiple of repeats 3"),
        ({"repeats": 0}, "not a multiple of repeats 0"),
        ({"local_blocks": 5}, "0 to 4"),
        ({"local_blocks": 1, "repeats": 2}, "leave one"),
        ({"lift_width": 0}, "at least 1"),
        ({"block_heads": [1, 2]}, "2 entries, and there are 4"),
        ({"block_heads": [1, 2], "repeats": 4}, "2 entries, and there are 1"),
        ({"block_heads": [0, 1, 1, 1]}, "1 to 4"),
        ({"block_heads": [5, 1, 1, 1]}, "1 to 4"),
        ({"block_hidden": [0, 1, 1, 1]}, "at least 1"),
        ({"block_dims": [[1, 1, 1, 1]] * 3 + [[1, 1, 1]]}, r"block_dims\[3\] should be 4 numbers of 1 to 8"),
        ({"block_dims": [[9, 1, 1, 1]] * 4}, r"block_dims\[0\]"),
        ({"wide_last_heads": 2}, "needs wide_last"),
        ({"wide_last": 48, "repeats": 2}, "leave out repeats"),
        ({"wide_last": 48, "block_hidden": [1] * 4}, "leave out repeats"),
        ({"wide_last": 48, "local_blocks": 4}, "not among local_blocks"),
        ({"wide_last": 50}, "set wide_last_heads"),
        ({"heads_per_block": [4, 4]}, "2 entries, and there are 4"),
        ({"heads_per_block": [4, 4, 4, 3]}, "divide embed_dim 32"),
        ({"heads_per_block": [4, 4, 4, 0]}, "divide embed_dim 32"),
        ({"heads_per_block": [4] * 4, "repeats": 2}, "leave out options"),
        ({"heads_per_block": [4] * 4, "local_blocks": 1}, "leave out options"),
    ],
)
def test_invalid_options_are_refused_with_the_reason(options, words):
    with pytest.raises(ValueError, match=words):
        VitOptions(**options).check(**DIMENSIONS)


@pytest.mark.parametrize(
    ("options", "pooling", "words"),
    [
        ({}, {"global_pool": "map"}, "token or avg"),
        ({}, {"class_token": False}, "needs the class token"),
        ({"distillation_tokens": 1}, {"global_pool": "avg"}, "set global_pool token"),
        ({"patch_vote": True}, {}, "set distillation_tokens"),
        ({"distillation_tokens": 1, "patch_vote": True}, {"fc_norm": True}, "leave one"),
        ({"lift_width": 8}, {"fc_norm": True}, "leave one"),
        ({"local_blocks": 1}, {"patch_drop": 0.1}, "patch_drop_rate"),
        ({"relative_position": True}, {"patch_drop": 0.1}, "patch_drop_rate"),
    ],
)
def test_options_that_do_not_fit_the_pooling_are_refused(options, pooling, words):
    with pytest.raises(ValueError, match=words):
        VitOptions(**options).check_pooling(**{**POOLING, **pooling})


def test_embed_dim_is_a_multiple_of_num_heads():
    with pytest.raises(ValueError, match="embed_dim 30"):
        VitOptions().check(embed_dim=30, depth=4, num_heads=4)


def test_a_block_has_its_individual_widths():
    options = VitOptions(block_heads=[2, 3], block_dims=[[1, 2], [8, 8, 8]], block_hidden=[5, 6])

    assert options.size(0, num_heads=4, head_dim=8, hidden=128) == BlockSize((1, 2), 5)
    assert VitOptions().size(0, num_heads=4, head_dim=8, hidden=128) == BlockSize((8, 8, 8, 8), 128)


@pytest.mark.parametrize(
    ("repeats", "words"),
    [
        (4, "stages of 2, 2, 6, 2 blocks cannot be runs of 4 each; set repeats to one of 1, 2, 3, 6, or change depths"),
        (0, "one of 1, 2, 3, 6"),
        (12, "one of 1, 2, 3, 6"),
    ],
)
def test_repeats_that_do_not_divide_the_stages_are_refused(repeats, words):
    with pytest.raises(ValueError, match=words):
        SwinOptions(repeats=repeats).check([2, 2, 6, 2])


@pytest.mark.parametrize("depths", [[], [2, 0]])
def test_each_stage_has_a_block(depths):
    with pytest.raises(ValueError, match="at least 1"):
        SwinOptions().check(depths)


@pytest.mark.parametrize(
    ("depths", "repeats", "stored"),
    [([2, 2, 6, 2], 6, [1, 1, 1, 1]), ([2, 2, 18, 2], 2, [1, 1, 9, 1]), ([2, 2, 6, 2], 3, [1, 1, 2, 1])],
)
def test_stored_blocks_match_the_authors_configurations(depths, repeats, stored):
    options = SwinOptions(repeats=repeats)
    options.check(depths)

    assert [depth // options.runs(depth) for depth in depths] == stored
