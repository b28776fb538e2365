"""BatchNorm statistics after a short training are those of the training images, whatever the training left."""

from dataclasses import replace

import pytest
import timm
import torch
from timm.layers.norm_act import FrozenBatchNormAct2d
from torch import nn

from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing
from core.reporting import Control, Interrupted
from core.train.batch_norm import MAX_IMAGES, MIN_UPDATES, running_layers, update_batch_norm
from core.train.trainer import TrainStep


def go():
    """Request nothing."""


def plain_student(*layers):
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4))
    module(torch.zeros(2, 1, 8, 8))
    return BuiltModel(module, "sequential", {"num_classes": 4}, plain_preprocessing(image_size=8, channels=1))


def buffers(module):
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def test_the_statistics_are_those_of_all_training_images(make_setup, training, pixels):
    setup = make_setup(training(), student=plain_student(nn.BatchNorm2d(1), nn.Dropout(0.5)))
    norm = setup.student.module[0]

    update = update_batch_norm(setup, steps=20, poll=go)

    inputs = setup.student.preprocessing(torch.from_numpy(pixels.images) / 255.0)
    torch.testing.assert_close(norm.running_mean, inputs.mean().view(1))
    torch.testing.assert_close(norm.running_var, inputs.var().view(1))
    assert (update.layers, update.images, update.updates) == (1, 40, 20)
    assert "1 layers re-estimated from 40 training images" in update.message


def test_the_result_does_not_depend_on_earlier_statistics_or_random_state(make_setup, training, resnet):
    setup = make_setup(training(), student=resnet())
    update_batch_norm(setup, steps=20, poll=go)
    expected = buffers(setup.student.module)
    for name, buffer in setup.student.module.named_buffers():
        if "running" in name:
            buffer.fill_(7.0)
    torch.manual_seed(4711)

    update_batch_norm(setup, steps=3, poll=go)

    assert all(buffer.equal(expected[name]) for name, buffer in setup.student.module.named_buffers())


def test_only_running_statistics_change(make_setup, training, resnet):
    setup = make_setup(training(), student=resnet())
    step = TrainStep(setup)
    for index in range(3):
        step.run(index)
    before = {name: tensor.clone() for name, tensor in setup.student.module.state_dict().items()}

    update_batch_norm(setup, steps=3, poll=go)

    after = setup.student.module.state_dict()
    changed = {name for name in before if not after[name].equal(before[name])}
    assert changed == {name for name in before if "running" in name}
    assert not any(part.training for part in setup.student.module.modules())
    assert {part.momentum for part in running_layers(setup.student.module)} == {0.1}


@pytest.mark.parametrize("steps", [0, MIN_UPDATES, 10 * MIN_UPDATES])
def test_a_training_with_no_or_enough_updates_keeps_its_statistics(steps, make_setup, training, resnet):
    setup = make_setup(training(), student=resnet())
    before = buffers(setup.student.module)

    assert update_batch_norm(setup, steps=steps, poll=go) is None
    assert all(buffer.equal(before[name]) for name, buffer in setup.student.module.named_buffers())


def test_every_part_of_a_batch_is_an_update(make_setup, training, resnet):
    setup = make_setup(training(gradient_accumulation=4), student=resnet())

    assert update_batch_norm(setup, steps=MIN_UPDATES // 4, poll=go) is None
    assert update_batch_norm(setup, steps=MIN_UPDATES // 4 - 1, poll=go).updates == MIN_UPDATES - 4


def test_a_network_without_running_statistics_is_unchanged(make_setup, training):
    norms = [nn.GroupNorm(1, 1), FrozenBatchNormAct2d(1), nn.BatchNorm2d(1, track_running_stats=False)]
    setup = make_setup(training(), student=plain_student(*norms))
    before = {name: tensor.clone() for name, tensor in setup.student.module.state_dict().items()}

    assert update_batch_norm(setup, steps=20, poll=go) is None
    assert all(t.equal(before[name]) for name, t in setup.student.module.state_dict().items())


class FrozenByMode(nn.BatchNorm2d):
    """A BatchNorm that stays in evaluation mode."""

    def train(self, mode=True):
        return super().train(False)


def test_a_layer_that_stays_in_evaluation_mode_is_frozen():
    assert running_layers(nn.Sequential(FrozenByMode(3))) == []


@pytest.mark.parametrize(
    ("architecture", "has_layers"),
    [("resnetv2_50d_evos", False), ("resnetv2_50d_frn", False), ("mobilenetv3_small_050", True), ("resnet10t", True),
     ("levit_128s", True), ("convnext_atto", False), ("vit_tiny_patch16_224", False)],
)  # fmt: skip
def test_layers_are_found_in_timms_families(architecture, has_layers):
    assert bool(running_layers(timm.create_model(architecture))) is has_layers


def test_averaged_weights_get_their_own_statistics(make_setup, training, resnet):
    setup = make_setup(training(ema=0.5), student=resnet())
    step = TrainStep(setup)
    for index in range(4):
        step.run(index)
    step.finalize_weights()
    exported = {name: tensor.clone() for name, tensor in step.state.ema.weights.items()}

    update_batch_norm(setup, steps=4, poll=go)

    final = setup.student.module.state_dict()
    assert all(final[name].equal(tensor) for name, tensor in exported.items() if "running" not in name)
    assert not all(final[name].equal(tensor) for name, tensor in exported.items())


def test_both_networks_of_mutual_learning_are_updated_if_both_can_be_exported(make_setup, training, resnet):
    setup = make_setup(training(), student=resnet(), method="mutual", hold_out=0.1)
    layers = len(running_layers(setup.student.module))
    before = buffers(setup.method.peer)

    assert update_batch_norm(setup, steps=20, poll=go).layers == 2 * layers
    assert not all(buffer.equal(before[name]) for name, buffer in setup.method.peer.named_buffers())


def test_at_most_max_images_are_used(make_setup, training, pixels):
    indices = torch.arange(MAX_IMAGES + 100).numpy() % 40
    many = replace(pixels, labels=torch.zeros(len(indices), dtype=torch.int64), indices=indices)
    setup = make_setup(training(), student=plain_student(nn.BatchNorm2d(1)), pixels=many)

    assert update_batch_norm(setup, steps=20, poll=go).images == MAX_IMAGES


def test_a_request_interrupts_the_pass(make_setup, training, resnet):
    def interrupt():
        raise Interrupted(Control.PAUSE)

    setup = make_setup(training(), student=resnet())

    with pytest.raises(Interrupted):
        update_batch_norm(setup, steps=20, poll=interrupt)
