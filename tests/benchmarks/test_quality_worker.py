"""A run of the quality benchmark resumes with the same bits, and the losses of peers are trained as ours."""

import io
import itertools
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.cifar10 import SplitSizes
from benchmarks.quality import worker
from benchmarks.quality.peers import PEERS, TeacherAtOwnSize
from benchmarks.quality.plan import Plan
from benchmarks.quality.protocol import QUICK
from benchmarks.quality.results import CRASHED, Results
from benchmarks.quality.worker import Worker
from core.models.built import BuiltModel
from core.models.weights import load_folder

SIZES = SplitSizes(train=20, validation=10, assistant=10, pool=10)
PROTOCOL = replace(QUICK, sizes=SIZES, batch_size=10)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A work folder with ten classes of random images, and the teacher."""
    folder = tmp_path_factory.mktemp("quality")
    draws = np.random.default_rng(0)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for split, label, number in itertools.product(("train", "test"), range(10), range(6)):
            file = io.BytesIO()
            Image.fromarray(draws.integers(0, 256, (32, 32, 3), np.uint8)).save(file, format="PNG")
            archive.writestr(f"{split}/class{label}/{number}.png", file.getvalue())
    plan = Plan(PROTOCOL, Results(folder / "results"), methods=["scratch", "kd", "deit"])
    made = SimpleNamespace(folder=folder, plan=plan)
    teacher = worker_of(made).execute(plan.run(plan.step("teacher-cnn")))
    assert teacher["status"] == "succeeded", teacher
    plan.results.add(teacher)
    return made


def worker_of(home, *, work=None, stop_after=None):
    """A worker that is stopped at its n-th poll."""
    polls = itertools.count(1)
    return Worker(
        home.folder if work is None else work,
        SIZES,
        home.folder / "images.zip",
        lambda: stop_after is not None and next(polls) > stop_after,
    )


def run_of(home, wanted, **changes):
    arm = next(arm for arm in home.plan.arms if (arm.track, arm.name) == ("vit", wanted))
    run = home.plan.run(home.plan.tuning(arm)[0])
    return replace(run, **{"saves_weights": True, "is_tested": True, **changes})


@pytest.mark.slow
def test_a_stopped_run_resumes_with_the_same_bits(home):
    undisturbed = worker_of(home).execute(run_of(home, "kd", name="whole"))
    attempts = 0
    stopped = None
    for stop_after in (6, 9, 12, 15, 18, None):  # each attempt gets further
        attempts += 1
        stopped = worker_of(home, stop_after=stop_after).execute(run_of(home, "kd", name="parts"))
        if stopped is not None:
            break

    assert undisturbed["status"] == stopped["status"] == "succeeded", (undisturbed, stopped)
    assert attempts > 1
    whole, parts = (load_file(worker.weights_folder(home.folder, n) / "model.safetensors") for n in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert undisturbed["test_top1"] == stopped["test_top1"]
    assert undisturbed["terms"] == stopped["terms"] == ["distillation", "label"]
    again = worker_of(home).execute(run_of(home, "kd", name="parts"))  # killed before its result was saved
    assert {**again, "seconds": 0} == {**stopped, "seconds": 0}
    worker.discard(home.folder, "parts")
    assert not worker.run_folder(home.folder, "parts").exists()


def test_a_result_records_what_the_run_was(home):
    result = worker_of(home).execute(run_of(home, "kd", with_neighbors=True))

    assert result["spec"]["method"]["temperature"] == 4.0
    assert result["spec"]["training"]["seed"] == result["seed"] == QUICK.tuning_seed
    assert len(result["images"]) == len(result["weights"]["mdl_cnn"]) == 64
    assert result["machine"]["torch"] == str(torch.__version__)
    assert result["seconds"] > 0
    assert len(result["saved_weights"]) == 64
    assert {"validation_top1", "test_top1", "test_neighbors_top1", "parameters"} <= set(result)


def test_errors_of_the_spec_are_results_and_others_are_crashes(home, monkeypatch):
    document = run_of(home, "kd").document
    wrong = run_of(home, "kd", document={**document, "student": {"architecture": "nothing"}})
    assert worker_of(home).execute(wrong)["status"] == "invalid_spec"

    def broken(*_, **__):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(worker, "run", broken)
    crashed = worker_of(home).execute(run_of(home, "kd"))
    assert crashed["status"] == CRASHED
    assert "ZeroDivisionError: a defect" in crashed["problem"]


@pytest.mark.parametrize("peer", PEERS)
def test_a_student_is_trained_with_a_peers_loss(home, peer):
    if not next(arm for arm in home.plan.arms if arm.name == peer).is_installed:
        pytest.skip("the peer's package is not installed")
    result = worker_of(home).execute(run_of(home, peer, name=peer.replace(" ", "-")))

    assert result["status"] == "succeeded", result
    assert result["terms"] == ["peer"]
    assert 0 <= result["test_top1"] <= 1


@pytest.mark.slow
def test_the_logit_task_of_timm_trains_the_student_of_kd(home):
    """The same loss in the same training: weights differ only by the rounding of cached outputs to float16."""
    trained = {}
    for arm in ("kd", "timm logit", "scratch"):
        result = worker_of(home).execute(run_of(home, arm, name=f"same-{arm}"))
        assert result["status"] == "succeeded"
        weights = load_file(worker.weights_folder(home.folder, f"same-{arm}") / "model.safetensors")
        trained[arm] = torch.cat([tensor.flatten() for tensor in weights.values()])

    difference = (trained["kd"] - trained["timm logit"]).abs().mean()
    assert difference < 0.05 * (trained["kd"] - trained["scratch"]).abs().mean()


def test_a_teacher_of_a_peer_sees_the_image_at_its_own_size(home):
    teacher = load_folder(worker.weights_folder(home.folder, "teacher-cnn"))
    student = replace(
        teacher, preprocessing=replace(teacher.preprocessing, image_size=32, mean=(0.4,) * 3, std=(0.2,) * 3)
    )
    assert teacher.preprocessing.image_size == 64
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    wrapped = TeacherAtOwnSize(teacher, student)

    with torch.inference_mode():
        expected = teacher(images)
        given = wrapped(student.preprocessing(images.clone()))
        features = wrapped.forward_features(student.preprocessing(images.clone()))
        embedding = wrapped.forward_head(features, pre_logits=True)

    assert torch.allclose(given, expected, atol=1e-4)
    assert embedding.shape == (4, wrapped.num_features)
    assert isinstance(teacher, BuiltModel)
