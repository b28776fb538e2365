"""Fixtures of the methods' tests: batches, tiny networks, and a harness around a method and its networks."""

import copy
from dataclasses import dataclass, replace

import pytest
import timm
import torch

from core.methods import Batch, Method, MethodContext, StepContext, StepInfo, build_method, plan_student_variant
from core.models.build import build_student
from core.models.built import BuiltModel
from core.models.plan import plan_student
from core.models.structure import structure_of
from core.models.taps import run_tapped
from core.spec import METHODS, StudentSpec
from core.spec.info import InputInfo
from core.teacher.frozen import FrozenTeacher
from core.train.precision import ComputeConfig

CPU = torch.device("cpu")
SIZE = 16
INPUT_INFO = InputInfo(num_classes=4, channels=1, image_size=SIZE)
RESNET = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32], "stem_width": 8}
STUDENTS = {
    "transformer": ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 16, "depth": 4, "num_heads": 2}),
    "cnn": ("resnet10t", RESNET),
}
# tinymim's block has the teacher's 3 heads, which have to divide the student's width.
OWN_STUDENTS = {
    "tinymim": ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 2}),
}
TEACHERS = {
    "transformer": ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 24, "depth": 6, "num_heads": 3}),
    "cnn": ("resnet10t", RESNET),
    "cnn with a map": ("resnet10t", {**RESNET, "output_stride": 8}),  # 2 × 2 positions of an image of 16 × 16
}


_built = {}  # plan and network, by the plan's text and the seed


def build(plan, *, seed, is_shared=False):
    """Build the network of a plan from a seed, or copy one that was built before. Tests may change their copy only."""
    key = (repr(plan), seed)
    if key not in _built:
        torch.manual_seed(seed)
        _built[key] = plan, build_student(plan)
    _, built = _built[key]
    return built if is_shared else replace(built, module=copy.deepcopy(built.module))


def model(architecture, arguments, *, seed=0, is_shared=False):
    """Build a model for 4 classes of grayscale images 16 × 16, in training mode."""
    spec = StudentSpec(architecture=architecture, arguments=arguments)
    return build(plan_student(spec, INPUT_INFO, image_size=SIZE), seed=seed, is_shared=is_shared)


@dataclass
class MethodHarness:
    """A method with its student and teachers."""

    method: Method
    student: BuiltModel
    teachers: list[FrozenTeacher]

    def step_context(self, info=None):
        return StepContext(
            self.student_outputs, self.teachers, info or StepInfo(step=3, total_steps=10, epoch=0.6, epochs=2)
        )

    def student_outputs(self, images):
        built = self.student
        return run_tapped(built.module, built.preprocessing(images), self.method.student_taps)

    def terms(self, batch, info=None):
        """The terms of one step, with seeded random draws."""
        torch.manual_seed(5)
        return self.method.terms(batch, self.step_context(info))

    def parameters(self):
        """Parameters of student and method by name."""
        return dict(self.student.module.named_parameters()) | {
            f"method.{name}": parameter for name, parameter in self.method.named_parameters()
        }


@pytest.fixture
def make_harness():
    """Build a harness: ``make_harness("kd", student="transformer", teachers=("cnn",), temperature=2.0)``.

    Networks are families or pairs (architecture, arguments); by default the families that the method needs.
    """

    def make(name, *, student=None, teachers=None, num_samples=24, **params):
        needs = METHODS[name].params.info.needs
        parameters = METHODS[name].params.model_validate({"name": name, **METHODS[name].params.info.example, **params})
        student = student or OWN_STUDENTS.get(name) or (needs.student_families or ("transformer",))[0]
        if teachers is None:
            family = (needs.teacher_families or ("transformer",))[0]
            family = "cnn with a map" if "last map of several positions" in needs.teacher else family
            teachers = (family, "cnn", "transformer")[: max(needs.min_teachers, 1 if needs.max_teachers != 0 else 0)]
        networks = [TEACHERS[t] if isinstance(t, str) else t for t in teachers]
        built = [model(*network, seed=10 + i, is_shared=True) for i, network in enumerate(networks)]
        architecture, arguments = STUDENTS[student] if isinstance(student, str) else student

        spec = StudentSpec(architecture=architecture, arguments=arguments)
        requested = plan_student(spec, INPUT_INFO, image_size=SIZE)
        plan = plan_student_variant(parameters, requested, teachers=lambda: [structure_of(t) for t in built])
        built_student = build(plan, seed=0)
        context = MethodContext(
            student=built_student,
            teachers=built,
            num_classes=4,
            num_samples=num_samples,
            batch_size=6,
            label_smoothing=0.0,
        )
        torch.manual_seed(1)
        method = build_method(parameters, context)
        method.prepare_student(built_student.module)
        frozen = [FrozenTeacher(t, ComputeConfig(CPU, "fp32"), method.teacher_request) for t in built]
        return MethodHarness(method.train(), built_student, frozen)

    return make


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return Batch(
        images=torch.rand(6, 1, SIZE, SIZE, generator=generator),
        labels=torch.arange(6) % 4,
        indices=torch.arange(6),
    )


@pytest.fixture
def mixed(batch):
    """The batch with labels as mixup leaves them."""
    labels = 0.7 * torch.nn.functional.one_hot(batch.labels, 4) + 0.3 * torch.nn.functional.one_hot(
        batch.labels.roll(1), 4
    )
    return Batch(batch.images, labels, batch.indices)


@pytest.fixture
def logits():
    """Make logits (6, 4) from a seed."""

    def make(seed):
        return 3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture
def distilled_vit():
    torch.manual_seed(0)
    return timm.create_model(
        "deit_tiny_distilled_patch16_224",
        img_size=SIZE,
        patch_size=4,
        embed_dim=16,
        depth=1,
        num_heads=2,
        num_classes=4,
        in_chans=1,
    )


@pytest.fixture
def context():
    """Two tiny ViTs, for methods that compare only logits."""
    return MethodContext(
        student=model(*STUDENTS["transformer"]),
        teachers=(model(*TEACHERS["transformer"], seed=1),),
        num_classes=4,
        num_samples=24,
        batch_size=6,
    )


@pytest.fixture
def filled():
    """Fill a module with the weights of the golden values: 0.1 sin(j + i) for entry j of parameter i."""

    @torch.no_grad()
    def fill(module):
        for index, parameter in enumerate(module.parameters()):
            parameter.copy_((0.1 * (torch.arange(parameter.numel()) + index).sin()).view_as(parameter))
        return module

    return fill
