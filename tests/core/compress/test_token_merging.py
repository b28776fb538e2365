"""Token merging and folding in trained networks."""

import pytest
import timm
import torch

from core.compress.folding import fold_layer_scale
from core.compress.token_merging import merge, merged_per_block
from core.compress.vit_form import flexible_form
from core.errors import InvalidSpec
from core.evaluate.measure import model_flops
from core.models.weights import save_folder


def test_tokens_are_merged_in_equal_parts():
    assert merged_per_block(64, 6, 0.5) == [6, 6, 5, 5, 5, 5]
    assert merged_per_block(16, 2, 0.9) == [7, 4]  # half of the tokens is the most
    assert merged_per_block(16, 4, 0.01) == [0, 0, 0, 0]


def test_a_merged_network_has_fewer_flops_and_is_loaded_by_timm(make_vit, images, tmp_path):
    built = make_vit()
    merged = merge(built, 0.6)
    save_folder(
        merged.module,
        tmp_path,
        architecture=merged.architecture,
        arguments=merged.arguments,
        preprocessing=merged.preprocessing,
    )

    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()

    inputs = merged.preprocessing(images)
    assert model_flops(merged) < 0.75 * model_flops(built)
    assert torch.equal(loaded(inputs), merged.module(inputs))
    assert all(
        torch.equal(weight, built.module.state_dict()[name]) for name, weight in merged.module.state_dict().items()
    )


def test_layer_scales_become_part_of_the_weights(make_vit, images):
    built = flexible_form(make_vit(init_values=0.1))

    folded = fold_layer_scale(built)

    assert not any("gamma" in name for name in folded.module.state_dict())
    torch.testing.assert_close(folded(images), built(images), rtol=0, atol=1e-5)
    assert fold_layer_scale(folded) is folded


@pytest.mark.parametrize("options", [{"repeats": 2}, {"merged_tokens": [1, 0, 0, 0]}, {"local_blocks": 1}])
def test_students_that_cannot_merge_are_refused(make_vit, options):
    with pytest.raises(InvalidSpec):
        merge(make_vit("potstill_vit", **options), 0.5)
