import numpy as np
import pytest
import torch

from core.evaluate import Latency
from core.export import ExportInputs, TestSplit
from core.models.build import build_student
from core.models.plan import plan_student
from core.models.student_variants import StudentVariant
from core.models.weights import save_folder
from core.spec import JobSpec
from core.spec.info import InputInfo

CLASSES = ("cat", "dog`|", "é")
SPEC = {
    "name": "a | name",
    "dataset": "ds_x",
    "student": {
        "architecture": "vit_tiny_patch16_224",
        "arguments": {"patch_size": 2, "embed_dim": 32, "depth": 1, "num_heads": 2},
    },
    "teachers": [{"architecture": "resnet18", "weights": "train", "training": {"seed": 7}}],
    "method": {"name": "deit"},
    "training": {"image_size": 8, "epochs": 20},
    "resources": {"threads": 1},
}
METRICS = {
    "top1": 0.5,
    "top5": 1.0,
    "parameters": 14_000,
    "flops": 500_000,
    "size_bytes": 60_000,
    "latency_ms": 0.25,
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def spec():
    return JobSpec.model_validate(SPEC)


@pytest.fixture
def student(spec):
    torch.manual_seed(0)
    facts = InputInfo(num_classes=3, channels=1, image_size=8)
    plan = plan_student(spec.student, facts, image_size=8)
    return build_student(plan.with_variant(StudentVariant("distilled")))


@pytest.fixture
def folder(student, tmp_path):
    save_folder(
        student.module,
        tmp_path,
        architecture=student.architecture,
        arguments=student.arguments,
        preprocessing=student.preprocessing,
        classes=CLASSES,
    )
    return tmp_path


@pytest.fixture
def samples():
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    images.setflags(write=False)  # like a memory map
    return images


@pytest.fixture
def dataset():
    return {"name": "pets", "fingerprint": "ab" * 32, "num_train": 1200, "num_test": 300}


@pytest.fixture
def result():
    return {"student": METRICS, "teachers": [{**METRICS, "top1": 0.75}], "compressed": [], "agreement": 0.875}


@pytest.fixture
def inputs(samples):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (70, 1, 8, 8), dtype=np.uint8)
    labels = torch.from_numpy(rng.integers(0, 3, 70))
    test = TestSplit.select(images, labels=labels, predictions=torch.zeros(70, dtype=torch.int64), flops=500_000)
    latency = tuple(Latency(size, 0.25 * size, 5, 1, "cpu") for size in (1, 32))
    return ExportInputs(samples=samples, test=test, latency=latency)
