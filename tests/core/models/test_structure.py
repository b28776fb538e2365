"""The structure that is determined on the meta device matches a real run."""

import pytest
import timm
import torch

from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing
from core.models.structure import AttentionShape, FeatureLevel, ModelStructure, inspect_structure, structure_of
from core.models.taps import FeatureRequest, run_tapped

HEAD = {"num_classes": 4, "in_chans": 1}
VIT = {**HEAD, "img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
SWIN = {
    **HEAD,
    "img_size": 16,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 2,
}
NETWORKS = {
    "vit": ("vit_tiny_patch16_224", VIT, 16),
    "deit distilled": ("deit_tiny_distilled_patch16_224", VIT, 16),
    "cait": ("cait_xxs24_224", VIT, 16),
    "swin": ("swin_tiny_patch4_window7_224", SWIN, 16),
    "shared swin": ("potstill_swin", {**SWIN, "depths": [2, 4], "repeats": 2, "head_transforms": True}, 16),
    "convnext": ("convnext_atto", {**HEAD, "depths": [1, 1, 1, 1], "dims": [4, 8, 12, 16]}, 32),
    "resnet": ("resnet10t", {**HEAD, "channels": [4, 8, 12, 16], "stem_width": 4}, 32),
    "regnet": ("regnetx_002", HEAD, 32),
}


def stages(*widths, side):
    return tuple(FeatureLevel(width, (side >> index, side >> index)) for index, width in enumerate(widths))


def attention(width, heads, tokens, *, windows=1, has_weights=False):
    return AttentionShape(width, heads, tokens, windows, has_weights)


EXPECTED = {
    "vit": ("transformer", stages(16, side=4) * 2, 16, (attention(16, 2, 17, has_weights=True),) * 2, 1, True, True, 0),
    "deit distilled": (
        "transformer", stages(16, side=4) * 2, 16, (attention(16, 2, 18, has_weights=True),) * 2, 2, True, True, 0,
    ),
    "cait": ("transformer", stages(16, side=4) * 2, 16, (attention(16, 2, 16),) * 2, 1, True, True, 0),
    "swin": (
        "transformer", stages(8, 16, side=8), 16,
        (attention(8, 1, 4, windows=16), attention(16, 2, 4, windows=4)), 0, False, False, 0,
    ),
    "shared swin": (
        "transformer", stages(8, 16, side=8), 16,
        (attention(8, 1, 4, windows=16),) * 2 + (attention(16, 2, 4, windows=4),) * 4, 0, False, False, 0,
    ),
    "convnext": ("cnn", stages(4, 8, 12, 16, side=8), 16, (), 0, False, False, 0),
    "resnet": ("cnn", stages(8, 4, 8, 12, 16, side=16), 16, (), 0, False, False, 15),
    "regnet": ("cnn", stages(32, 24, 56, 152, 368, side=16), 368, (), 0, False, False, 44),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_structure_of_each_family(name):
    found = inspect_structure(*NETWORKS[name])

    assert (
        found.family,
        found.levels,
        found.embedding,
        found.attentions,
        found.num_prefix_tokens,
        found.has_class_token,
        found.is_vit,
        found.num_batch_norms,
    ) == EXPECTED[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_real_run_matches_the_structure(name):
    architecture, arguments, size = NETWORKS[name]
    anatomy = inspect_structure(architecture, arguments, size)
    module = timm.create_model(architecture, **arguments).eval()
    levels, attentions = range(len(anatomy.levels)), range(len(anatomy.attentions))

    wanted = FeatureRequest(levels=tuple(levels), last=True, embedding=True, attentions=tuple(attentions))
    found = run_tapped(module, torch.rand(3, 1, size, size), wanted)

    assert tuple(FeatureLevel(f.tokens.shape[2], f.grid) for f in found.levels.values()) == anatomy.levels
    assert [feature.tokens.shape[1] for feature in found.levels.values()] == [level.tokens for level in anatomy.levels]
    assert FeatureLevel(found.last.tokens.shape[2], found.last.grid) == anatomy.last
    assert found.embedding.shape == (3, anatomy.embedding)
    assert sum("BatchNorm" in type(part).__name__ for part in module.modules()) == anatomy.num_batch_norms
    for index in attentions:
        shape, seen = anatomy.attentions[index], found.attentions[index]
        assert seen.query.shape == (3 * shape.windows, shape.tokens, shape.width)
        assert (seen.heads, seen.weights is not None) == (shape.heads, shape.has_weights)


def test_the_last_level_of_the_structure_exists():
    anatomy = inspect_structure(*NETWORKS["vit"])
    module = timm.create_model(NETWORKS["vit"][0], **NETWORKS["vit"][1]).eval()

    with pytest.raises((AssertionError, ValueError, IndexError)):
        run_tapped(module, torch.zeros(1, 1, 16, 16), FeatureRequest(levels=(len(anatomy.levels),)))


def test_a_built_model_is_inspected_at_its_input_size():
    arguments = {**HEAD, "channels": [4, 8, 12, 16], "stem_width": 4}
    module = timm.create_model("resnet10t", **arguments)

    found = [
        structure_of(BuiltModel(module, "resnet10t", arguments, plain_preprocessing(image_size=size, channels=1)))
        for size in (32, 64)
    ]

    assert [anatomy.levels[-1].grid for anatomy in found] == [(1, 1), (2, 2)]


def test_inspection_needs_no_weights_and_is_cached():
    large = ("vit_giant_patch14_dinov2", {"num_classes": 10, "in_chans": 3, "img_size": 224}, 224)

    found = inspect_structure(*large)

    assert len(found.levels) == 40
    assert found.embedding == 1536
    assert inspect_structure(large[0], dict(reversed(large[1].items())), large[2]) is found


def test_a_model_without_a_classifier_has_an_embedding():
    assert inspect_structure("vit_tiny_patch16_224", {**VIT, "num_classes": 0}, 16).embedding == 16


@pytest.mark.parametrize(
    ("family", "grids", "expected"),
    [
        ("transformer", [(4, 4), (4, 4)], True),
        ("transformer", [(4, 4), (2, 2)], False),
        ("transformer", [], False),
        ("cnn", [(4, 4), (4, 4)], False),
    ],
)
def test_a_vit_is_a_transformer_on_one_grid(family, grids, expected):
    levels = tuple(FeatureLevel(8, grid) for grid in grids)

    assert ModelStructure("net", family, levels, None, None, (), 0, False, 0).is_vit is expected
