"""Frozen teacher: outputs without gradients, in its own preprocessing."""

import timm
import torch

from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing
from core.models.taps import FeatureRequest
from core.teacher.frozen import FrozenTeacher
from core.train.precision import ComputeConfig

CPU = torch.device("cpu")
ARGUMENTS = {"num_classes": 4, "in_chans": 3}


def resnet():
    torch.manual_seed(0)
    module = timm.create_model("resnet10t", **ARGUMENTS)
    return BuiltModel(module, "resnet10t", ARGUMENTS, plain_preprocessing(image_size=32, channels=3))


def test_a_teacher_applies_its_own_size_channels_and_evaluation_mode():
    built = resnet()
    teacher = FrozenTeacher(built, ComputeConfig(CPU, "fp32"))
    images = torch.rand(5, 1, 8, 8)

    outputs = teacher(images)

    assert outputs.logits.shape == (5, 4)
    assert teacher(images[:1]).logits.allclose(outputs.logits[:1], atol=1e-5)  # batch statistics play no part
    assert not built.module.training


def test_outputs_work_with_autograd_and_weights_get_no_gradient():
    built = resnet()
    teacher = FrozenTeacher(built, ComputeConfig(CPU, "fp32"))
    student = torch.zeros(2, 4, requires_grad=True)

    ((student - teacher(torch.rand(2, 3, 8, 8)).logits) ** 2).sum().backward()

    assert student.grad is not None
    assert not any(parameter.requires_grad for parameter in built.module.parameters())


def test_logits_are_float32_in_bf16():
    teacher = FrozenTeacher(resnet(), ComputeConfig(CPU, "bf16"))

    assert teacher.logits(torch.rand(2, 3, 8, 8)).dtype == torch.float32


def test_outputs_do_not_depend_on_the_memory_format():
    teacher = FrozenTeacher(resnet(), ComputeConfig(CPU, "fp32"), FeatureRequest(levels=(2,)))
    images = torch.rand(3, 3, 8, 8)

    first, second = teacher(images), teacher(images.contiguous(memory_format=torch.channels_last))

    assert first.logits.equal(second.logits)
    assert first.levels[2].tokens.equal(second.levels[2].tokens)
