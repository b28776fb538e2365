"""What is read back is what a teacher said, rounded to half precision."""

import pytest
import timm
import torch

from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing
from core.models.taps import Attention, Feature, FeatureRequest, Outputs, run_tapped
from core.teacher.layout import Layout, layout_for, layout_of, row_bytes

VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3, "in_chans": 1}
SWIN = {"img_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 2}
NETWORKS = {
    "vit": ("vit_tiny_patch16_224", VIT, 8, (0, 1)),
    "swin": ("swin_tiny_patch4_window7_224", {**SWIN, "num_classes": 3, "in_chans": 1}, 16, (0, 2)),
    "resnet": ("resnet10t", {"num_classes": 3, "in_chans": 1}, 32, ()),
}


def said_by(name, wanted, count=5):
    architecture, arguments, size, _ = NETWORKS[name]
    torch.manual_seed(0)
    module = timm.create_model(architecture, **arguments).eval()
    built = BuiltModel(module, architecture, arguments, plain_preprocessing(image_size=size, channels=1))
    with torch.inference_mode():
        said = run_tapped(module, torch.rand(count, 1, size, size), wanted)
    return said, layout_of(built, wanted)


@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_everything_that_can_be_tapped_comes_back(name, logits):
    wanted = FeatureRequest(levels=(0, 1), last=True, embedding=True, attentions=NETWORKS[name][3], logits=logits)
    said, layout = said_by(name, wanted)
    rows = layout.pack(said)

    back = layout.unpack(rows)

    assert rows.dtype == torch.float16
    assert rows.shape == (5, layout.width)
    assert row_bytes([layout]) == rows.nbytes // 5
    assert back.logits.equal(said.logits.half().float())
    assert back.embedding.equal(said.embedding.half().float())
    assert back.last.all_tokens.equal(said.last.all_tokens.half().float())
    assert back.last.grid == said.last.grid
    for level in (0, 1):
        assert back.levels[level].all_tokens.equal(said.levels[level].all_tokens.half().float())
        assert (back.levels[level].prefix is None) == (said.levels[level].prefix is None)
    for index in wanted.attentions:
        assert [one.half().float().equal(other) for one, other in zip(
            said.attentions[index].qkv, back.attentions[index].qkv, strict=True)] == [True] * 3  # fmt: skip
        assert (back.attentions[index].heads, back.attentions[index].weights) == (said.attentions[index].heads, None)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_rows_of_some_pictures_are_what_was_said_of_them(name):
    wanted = FeatureRequest(levels=(1,), attentions=NETWORKS[name][3])
    said, layout = said_by(name, wanted)

    some = layout.unpack(layout.pack(said)[[3, 1]])

    assert some.levels[1].tokens.equal(said.levels[1].tokens[[3, 1]].half().float())
    for index in wanted.attentions:
        query = said.attentions[index].query
        by_picture = query.reshape(5, -1, *query.shape[1:])[[3, 1]].flatten(0, 1)
        assert some.attentions[index].query.equal(by_picture.half().float())


def test_features_beyond_half_precision_become_the_largest_number():
    template = Outputs(torch.empty(2, 1, device="meta"), last=Feature(torch.empty(2, 1, 2, device="meta"), (1, 1)))
    layout = Layout(FeatureRequest(last=True), template, None)

    said = Outputs(torch.tensor([[1e9]]), last=Feature(torch.tensor([[[-1e9, 2.0]]]), (1, 1)))

    assert layout.pack(said).tolist() == [[65504.0, -65504.0, 2.0]]


def test_attentions_of_the_same_network_with_other_taps_are_another_question():
    words = [
        layout_for(*NETWORKS["vit"][:3], FeatureRequest(levels=levels)).key_fields() for levels in ((0,), (1,), (0, 1))
    ]

    assert len({str(one) for one in words}) == 3
    assert isinstance(Attention, type)


# --- the likeliest classes ------------------------------------------------------------------------


def sparse(num_classes, kept):
    return layout_for("any", {"num_classes": num_classes}, 8, FeatureRequest(), kept)


@pytest.mark.parametrize(("num_classes", "kept", "width"), [(1000, 100, 201), (21_841, 100, 201), (100_000, 10, 31)])
def test_the_likeliest_classes_and_the_mass_of_the_rest_come_back(num_classes, kept, width):
    logits = 3 * torch.randn(4, num_classes, generator=torch.Generator().manual_seed(0))
    logits[:, -1] = 20.0  # the largest class of all, so that its number has to be held
    layout = sparse(num_classes, kept)

    back = layout.unpack(layout.pack(Outputs(logits))).logits

    values, places = logits.topk(kept, dim=1)
    assert layout.width == width
    assert back.gather(1, places).equal(values.half().float())
    probability = logits.softmax(1)
    again = back.softmax(1)
    torch.testing.assert_close(again.gather(1, places), probability.gather(1, places), rtol=1e-2, atol=1e-6)
    rest = 1 - probability.gather(1, places).sum(1)
    torch.testing.assert_close(1 - again.gather(1, places).sum(1), rest, rtol=2e-2, atol=1e-5)


def test_all_logits_are_kept_where_that_takes_no_more():
    assert sparse(10, 9).top_k is None
    assert sparse(10, 9).width == 10
    assert sparse(100, 49).top_k == 49
    assert sparse(100, 50).top_k is None
