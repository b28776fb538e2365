"""The comparison with other packages runs, and both sides train the same; times are not tested."""

import json
from importlib.util import find_spec

import pytest
import torch

from benchmarks import against_peers, cache_filling, cached_training, data, photographs
from benchmarks.peers import timm_step, torchdistill_step
from benchmarks.workload import Workload, WorkloadSize
from core.data.stored import StoredDataset
from core.methods import MethodContext, build_method
from core.methods.base import StepContext, StepInfo
from core.models.taps import Outputs
from core.teacher.frozen import FrozenTeacher
from core.train.precision import ComputeConfig

STEPS = {"timm.task": timm_step, "torchdistill": torchdistill_step}


@pytest.fixture
def workload(tmp_path):
    return Workload(tmp_path, WorkloadSize(num_images=20, epochs=1, batch_size=10, tiny=True), threads=1)


@pytest.mark.parametrize("peer", STEPS)
def test_a_peer_computes_the_engines_loss(workload, peer):
    if peer == "torchdistill" and find_spec("torchdistill") is None:
        pytest.skip("torchdistill is not installed")
    spec = workload.spec("deit_tiny", temperature=3.0, alpha=0.7)
    student, teacher = workload.networks(spec)
    batch = workload.loader(spec).batch(0)
    method = build_method(spec.method, MethodContext(student=student, teachers=[teacher], num_classes=10))
    frozen = FrozenTeacher(teacher, ComputeConfig(torch.device("cpu"), "fp32"))
    step = StepContext(lambda images: Outputs.from_model_output(student(images)), [frozen], StepInfo(0, 10, 0.0, 1))
    ours = sum(method.terms(batch, step).values()).item()

    theirs = STEPS[peer](spec, student, teacher, 10)(student.preprocessing(batch.images), batch.labels).item()

    assert theirs == pytest.approx(ours, rel=1e-5)


def test_networks_have_the_same_weights_each_time(workload):
    spec = workload.spec("deit_tiny")
    one, other = workload.networks(spec), workload.networks(spec)

    for first_built, second_built in zip(one, other, strict=True):
        assert all(
            torch.equal(a, b)
            for a, b in zip(first_built.module.parameters(), second_built.module.parameters(), strict=True)
        )


@pytest.mark.slow
def test_the_comparison_runs_and_writes_its_figures(tmp_path):
    assert (
        against_peers.main(["--quick", "--repeats", "1", "--threads", "1", "--out", str(tmp_path / "peers.json")]) == 0
    )

    document = json.loads((tmp_path / "peers.json").read_text())
    questions = [figure["question"] for figure in document["figures"]]
    assert any(question.startswith("first job against timm.task") for question in questions)
    assert sum(question.startswith("second job") for question in questions) == 4
    assert any(question.startswith("four students") for question in questions)
    assert all(figure["value"] > 0 and figure["repeats"] == 1 for figure in document["figures"])
    assert document["machine"]["torch"] == str(torch.__version__)


@pytest.mark.slow
@pytest.mark.parametrize(("benchmark", "goal"), [(cached_training, "≥ 0.97"), (data, None)])
def test_two_ways_of_training_are_compared(benchmark, goal, tmp_path):
    assert benchmark.main(["--quick", "--repeats", "2", "--threads", "1", "--out", str(tmp_path / "c.json")]) == 0

    (figure,) = json.loads((tmp_path / "c.json").read_text())["figures"]
    assert figure["goal"] == goal
    assert figure["spread"][0] <= figure["value"] <= figure["spread"][1]


@pytest.mark.slow
def test_a_first_job_is_compared_with_one_that_another_process_computes_for(tmp_path):
    path = tmp_path / "filling.json"

    assert cache_filling.main(["--quick", "--repeats", "1", "--out", str(path)]) == 0

    document = json.loads(path.read_text())
    assert [figure["goal"] for figure in document["figures"]] == ["≥ 1.6"] * 2
    num_shards = {job: [sum(runs[n][0]["num_shards"]) for n in ("0", "1")] for job, runs in document["runs"].items()}
    assert num_shards == {"a new view in every epoch": [3, 3], "one view": [2, 2]}


@pytest.mark.slow
def test_training_on_photographs_is_compared_with_other_loaders(tmp_path):
    path = tmp_path / "photographs.json"

    assert photographs.main(["--quick", "--repeats", "1", "--threads", "1", "--out", str(path)]) == 0

    figures = json.loads(path.read_text())["figures"]
    assert [figure["goal"] for figure in figures] == ["≥ 1.5", None, None, None]
    assert all(figure["value"] > 0 for figure in figures)


def test_stored_images_are_complete_and_reused(workload, tmp_path):
    with StoredDataset.open(workload.folder) as stored:
        assert len(stored.split("train")) == 20
        assert stored.num_classes == 10
    changed = workload.folder.stat().st_mtime_ns

    assert Workload(tmp_path, workload.sizes, threads=1).folder.stat().st_mtime_ns == changed
