import timm
import torch

from core.models.meta_device import build_on_meta, count_parameters, parameters_on_meta


def test_a_meta_model_has_the_parameters_of_the_real_one(tiny_vit):
    arguments = {**tiny_vit, "img_size": 8, "num_classes": 10, "in_chans": 1}
    imagined = build_on_meta("vit_tiny_patch16_224", arguments)
    real = timm.create_model("vit_tiny_patch16_224", **arguments)

    assert all(parameter.is_meta for parameter in imagined.parameters())
    assert count_parameters(imagined) == count_parameters(real)
    assert [tuple(t.shape) for t in imagined.state_dict().values()] == [
        tuple(t.shape) for t in real.state_dict().values()
    ]


def test_a_huge_model_needs_no_memory():
    assert parameters_on_meta("vit_gigantic_patch14_224") > 1_800_000_000


def test_building_on_meta_does_not_change_real_tensors():
    build_on_meta("resnet18", {})

    assert not torch.empty(1).is_meta
    assert torch.ones(2).mul_(3).tolist() == [3, 3]
