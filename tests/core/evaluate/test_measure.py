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

INPUT_INFO = InputInfo(num_classes=3, channels=1, image_size=8)


@pytest.fixture
def student():
    torch.manual_seed(0)
    spec = StudentSpec(
        architecture="vit_tiny_patch16_224", arguments={"patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2}
    )
    plan = plan_student(spec, INPUT_INFO, image_size=8)
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


def test_the_exported_file_is_measured_instead_of_the_network(folder, student, dataset):
    before = evaluate_exported(folder, dataset)
    with torch.no_grad():
        student.module.head.weight.zero_()

    assert torch.equal(evaluate_exported(folder, dataset).accuracy.predictions, before.accuracy.predictions)


def test_the_summary_has_the_fields_of_the_contract(folder, dataset):
    metrics = evaluate_exported(folder, dataset)
    built = load_folder(folder)
    summary = metrics.summary()

    assert list(summary) == ["top1", "top5", "parameters", "flops", "size_bytes", "latency_ms"]
    assert summary["parameters"] == sum(p.numel() for p in built.module.parameters())
    assert summary["size_bytes"] == (folder / "model.safetensors").stat().st_size
    assert summary["latency_ms"] > 0
    assert agreement(metrics.accuracy.predictions, predict(built, dataset.images).argmax(1)) == 1.0
    json.dumps(metrics.details(("a", "b", "c")))
    assert [latency["batch_size"] for latency in metrics.details()["latency"]] == [1, 32]


def test_the_size_of_a_model_in_memory_is_close_to_its_file(folder, student, dataset):
    metrics = measure_model(student, dataset)

    assert metrics.size_bytes == pytest.approx((folder / "model.safetensors").stat().st_size, rel=0.05)
    assert not student.module.training
