import json

import pytest
import torch

from core.evaluate import agreement, evaluate_exported, measure_model, predict
from core.models.build import build_student
from core.models.plan import plan_student
from core.models.student_variants import StudentVariant
from core.models.weights import load_folder, save_folder
from core.spec import StudentSpec
from core.spec.info import InputInfo

FACTS = InputInfo(num_classes=3, channels=1, image_size=8)


@pytest.fixture
def student():
    torch.manual_seed(0)
    spec = StudentSpec(
        architecture="vit_tiny_patch16_224", arguments={"patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2}
    )
    plan = plan_student(spec, FACTS, image_size=8)
    return build_student(plan.with_variant(StudentVariant("distilled")))


@pytest.fixture
def folder(student, tmp_path):
    save_folder(
        student.module,
        tmp_path,
        architecture=student.architecture,
        arguments=student.arguments,
        preprocessing=student.preprocessing,
    )
    return tmp_path


def test_the_file_is_measured_and_not_the_network(folder, student, pictures):
    before = evaluate_exported(folder, pictures)
    with torch.no_grad():
        student.module.head.weight.zero_()

    assert torch.equal(evaluate_exported(folder, pictures).accuracy.predictions, before.accuracy.predictions)


def test_figures_are_the_contracts(folder, pictures):
    measured = evaluate_exported(folder, pictures)
    built = load_folder(folder)
    figures = measured.summary()

    assert list(figures) == ["top1", "top5", "parameters", "flops", "size_bytes", "latency_ms"]
    assert figures["parameters"] == sum(p.numel() for p in built.module.parameters())
    assert figures["size_bytes"] == (folder / "model.safetensors").stat().st_size
    assert figures["latency_ms"] > 0
    assert agreement(measured.accuracy.predictions, predict(built, pictures.images).argmax(1)) == 1.0
    json.dumps(measured.details(("a", "b", "c")))
    assert [latency["batch_size"] for latency in measured.details()["latency"]] == [1, 32]


def test_a_model_in_memory_has_about_the_size_of_its_file(folder, student, pictures):
    measured = measure_model(student, pictures)

    assert measured.size_bytes == pytest.approx((folder / "model.safetensors").stat().st_size, rel=0.05)
    assert not student.module.training
