"""Structured pruning of CNNs, and the ``potstill_cnn`` that holds the result."""

import pytest
import timm
import torch

from core.compress.cnn_pruning import loss_gradients, prune_cnn, smallest_channels
from core.compress.pruning_target import PruningTarget
from core.compress.vit_pruning import TargetUnreachable
from core.evaluate.measure import model_flops
from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing
from core.models.weights import save_folder
from tests.core.compress.conftest import without_weights

CNNS = {
    "resnet18": {"layers": [1, 1, 1, 1], "channels": [16, 24, 32, 48]},
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [16, 24, 32, 48]},
}


@pytest.fixture
def make_cnn():
    def make(architecture):
        arguments = {**CNNS[architecture], "in_chans": 1, "num_classes": 4}
        torch.manual_seed(0)
        module = timm.create_model(architecture, **arguments).eval()
        for name, buffer in module.named_buffers():
            if "running_var" in name:
                buffer.uniform_(0.5, 2.0)
        return BuiltModel(module, architecture, arguments, plain_preprocessing(image_size=32, channels=1))

    return make


@pytest.fixture
def images():
    return torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("architecture", "criterion"), [("resnet18", "taylor"), ("convnext_atto", "magnitude")])
def test_a_pruned_cnn_has_the_target_and_is_loaded_by_timm(make_cnn, images, tmp_path, architecture, criterion):
    built = make_cnn(architecture)
    batches = [(images, torch.arange(8) % 4)]
    gradients = loss_gradients(built, batches, poll=lambda: None) if criterion == "taylor" else {}

    pruned = prune_cnn(built, gradients, PruningTarget.relative_to(built, "flops", 0.5)).model
    save_folder(
        pruned.module,
        tmp_path,
        architecture=pruned.architecture,
        arguments=pruned.arguments,
        preprocessing=pruned.preprocessing,
    )
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()

    assert 0.35 < model_flops(pruned) / model_flops(built) <= 0.5
    inputs = pruned.preprocessing(images)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), pruned.module(inputs))
    assert all(parameter.grad is None for parameter in built.module.parameters())


def test_the_smallest_network_needs_no_weights(make_cnn):
    built = make_cnn("resnet18")
    meta = without_weights(built)
    target = PruningTarget.relative_to(built, "flops", 0.001)

    assert smallest_channels(meta, target) > target.limit
    with pytest.raises(TargetUnreachable):
        prune_cnn(built, {}, target)


def test_a_pruned_cnn_can_be_pruned_again_and_trained(make_cnn, images):
    built = make_cnn("resnet18")
    once = prune_cnn(built, {}, PruningTarget.relative_to(built, "parameters", 0.6)).model
    twice = prune_cnn(once, {}, PruningTarget.relative_to(once, "parameters", 0.6)).model

    assert twice.arguments["base"] == "resnet18"
    assert model_flops(twice) < model_flops(once) < model_flops(built)
    twice.module.train()(twice.preprocessing(images)).sum().backward()


@pytest.mark.parametrize(
    "arguments",
    [
        {"shapes": {"conv1.weight": [0, 3, 7, 7]}},
        {"shapes": {"conv1.weight": [8]}},
        {"shapes": {"nothing.weight": [8, 3, 7, 7]}},
        {"groups": {"bn1": 2}},
        {"base": "potstill_cnn"},
    ],
)
def test_impossible_shapes_are_refused(arguments):
    with pytest.raises(ValueError, match=r"shapes|groups|base"):
        timm.create_model("potstill_cnn", **arguments)
