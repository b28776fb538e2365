"""Unpacked rows are the teacher's outputs rounded to half precision."""

import pytest
import timm
import torch

from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing
from core.models.taps import Attention, Feature, FeatureRequest, Outputs, run_tapped
from core.teacher.layout import Layout, layout_for, layout_of, row_bytes
from tests.support.features import all_tokens

VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3, "in_chans": 1}
SWIN = {"img_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 2}
NETWORKS = {
    "vit": ("vit_tiny_patch16_224", VIT, 8, (0, 1)),
    "swin": ("swin_tiny_patch4_window7_224", {**SWIN, "num_classes": 3, "in_chans": 1}, 16, (0, 2)),
    "resnet": ("resnet10t", {"num_classes": 3, "in_chans": 1}, 32, ()),
}


def run_teacher(name, request, num_images=5):
    """Return a network's outputs and their layout."""
    architecture, arguments, size, _ = NETWORKS[name]
    torch.manual_seed(0)
    module = timm.create_model(architecture, **arguments).eval()
    built = BuiltModel(module, architecture, arguments, plain_preprocessing(image_size=size, channels=1))
    with torch.inference_mode():
        outputs = run_tapped(module, torch.rand(num_images, 1, size, size), request)
    return outputs, layout_of(built, request)


@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_output_is_restored(name, logits):
    request = FeatureRequest(levels=(0, 1), last=True, embedding=True, attentions=NETWORKS[name][3], logits=logits)
    outputs, layout = run_teacher(name, request)
    rows = layout.pack(outputs)

    back = layout.unpack(rows)

    assert rows.dtype == torch.float16
    assert rows.shape == (5, layout.width)
    assert row_bytes([layout]) == rows.nbytes // 5
    assert back.logits.equal(outputs.logits.half().float())
    assert back.embedding.equal(outputs.embedding.half().float())
    assert all_tokens(back.last).equal(all_tokens(outputs.last).half().float())
    assert back.last.grid == outputs.last.grid
    for level in (0, 1):
        assert all_tokens(back.levels[level]).equal(all_tokens(outputs.levels[level]).half().float())
        assert (back.levels[level].prefix is None) == (outputs.levels[level].prefix is None)
    for index in request.attentions:
        assert [tensor.half().float().equal(restored) for tensor, restored in zip(
            outputs.attentions[index].qkv, back.attentions[index].qkv, strict=True)] == [True] * 3  # fmt: skip
        assert (back.attentions[index].heads, back.attentions[index].weights) == (outputs.attentions[index].heads, None)


@pytest.mark.parametrize("name", NETWORKS)
def test_selected_rows_hold_the_outputs_of_the_selected_images(name):
    request = FeatureRequest(levels=(1,), attentions=NETWORKS[name][3])
    outputs, layout = run_teacher(name, request)

    some = layout.unpack(layout.pack(outputs)[[3, 1]])

    assert some.levels[1].tokens.equal(outputs.levels[1].tokens[[3, 1]].half().float())
    for index in request.attentions:
        query = outputs.attentions[index].query
        by_image = query.reshape(5, -1, *query.shape[1:])[[3, 1]].flatten(0, 1)
        assert some.attentions[index].query.equal(by_image.half().float())


def test_features_beyond_half_precision_are_clamped():
    template = Outputs(torch.empty(2, 1, device="meta"), last=Feature(torch.empty(2, 1, 2, device="meta"), (1, 1)))
    layout = Layout(FeatureRequest(last=True), template, None)

    outputs = Outputs(torch.tensor([[1e9]]), last=Feature(torch.tensor([[[-1e9, 2.0]]]), (1, 1)))

    assert layout.pack(outputs).tolist() == [[65504.0, -65504.0, 2.0]]


def test_another_feature_request_has_other_key_fields():
    key_fields = [
        layout_for(*NETWORKS["vit"][:3], FeatureRequest(levels=levels)).key_fields() for levels in ((0,), (1,), (0, 1))
    ]

    assert len({str(fields) for fields in key_fields}) == 3
    assert isinstance(Attention, type)


# --- sparse logits --------------------------------------------------------------------------------


def sparse(num_classes, top_k):
    return layout_for("any", {"num_classes": num_classes}, 8, FeatureRequest(), top_k)


@pytest.mark.parametrize(("num_classes", "top_k", "width"), [(1000, 100, 201), (21_841, 100, 201), (100_000, 10, 31)])
def test_the_top_k_classes_and_the_total_probability_of_the_others_are_restored(num_classes, top_k, width):
    logits = 3 * torch.randn(4, num_classes, generator=torch.Generator().manual_seed(0))
    logits[:, -1] = 20.0  # the last class, so that the largest index is stored
    layout = sparse(num_classes, top_k)

    back = layout.unpack(layout.pack(Outputs(logits))).logits

    values, indices = logits.topk(top_k, dim=1)
    assert layout.width == width
    assert back.gather(1, indices).equal(values.half().float())
    probability = logits.softmax(1)
    restored = back.softmax(1)
    torch.testing.assert_close(restored.gather(1, indices), probability.gather(1, indices), rtol=1e-2, atol=1e-6)
    rest = 1 - probability.gather(1, indices).sum(1)
    torch.testing.assert_close(1 - restored.gather(1, indices).sum(1), rest, rtol=2e-2, atol=1e-5)


def test_rows_are_dense_where_sparse_rows_are_not_shorter():
    assert sparse(10, 9).top_k is None
    assert sparse(10, 9).width == 10
    assert sparse(100, 49).top_k == 49
    assert sparse(100, 50).top_k is None
