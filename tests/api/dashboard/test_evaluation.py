"""The section of a job's page on whether the teacher helped."""

import json
import re

import httpx
import pytest
import torch

from api.dashboard import evaluation
from api.dashboard.formats import unbroken
from core.evaluate.corruptions import CLEAN, CORRUPTIONS
from core.spec.info import ModelInfo
from core.store import jobs, lineage, models
from core.store.jobs import NewArtifact
from core.store.tables import Job
from tests.core.evaluate.test_evaluation_report import network, report

METRICS = {"top1": 0.8, "top5": 1.0, "parameters": 10, "flops": 1e6, "size_bytes": 40, "latency_ms": 1.0}
INFO = ModelInfo(architecture="vit", arguments={}, num_classes=3, channels=1, parameters=1, size_bytes=1)


@pytest.fixture(scope="module")
def found():
    corrupted = dict.fromkeys(CORRUPTIONS, 0.5) | {CLEAN: 0.75}
    held_out = (torch.tensor([[3.0, 0, 0]] * 4), torch.tensor([0, 0, 0, 1]))
    student = network([0, 0, 1, 1, 2, 0], corrupted=corrupted, held_out=held_out)
    teachers = [network([0, 0, 1, 1, 2, 2], corrupted=corrupted)]
    baseline = network([0, 0, 0, 0, 2, 2], corrupted=corrupted)
    return report(student, teachers, baseline, classes=("cat", "<dog>", "owl")).to_json()


@pytest.fixture
def page(tenant, tmp_path, found):
    """The page of a job that succeeded with this evaluation, as a browser without JavaScript gets it."""
    digests = {"spec": "a" * 64, "dataset": "b" * 64, "teachers": ["c" * 64], "baseline": None, "student": "d" * 64,
               "code": {"version": "1", "sha256": "e" * 64}, "environment": "f" * 64}  # fmt: skip
    cost = {"stages": {"distill": 61.0}, "teacher_seconds": 2.0, "teacher_seconds_saved": 3.0, "baseline": {}}
    (tmp_path / "report.json").write_text(json.dumps({"evaluation": found, "cost": cost, "digests": digests}))
    lease = tenant.running_job()
    key = f"jobs/{lease.job_id}/a1/artifacts/report.json"
    artifact = NewArtifact("report.json", "application/json", tenant.server.store.put(key, tmp_path / "report.json"))
    result = {"student": METRICS, "teachers": [METRICS], "compressed": [], "agreement": 0.9, "baseline": METRICS}
    with tenant.database.write() as session:
        parent = lineage.parent_of_student(session, tenant.project_id, session.get(Job, lease.job_id).spec)
        student = models.create_student(session, lease, name="s", info=INFO, files=[], parent_id=parent)
        jobs.succeed(session, lease, result=result, artifacts=[artifact], model_id=student.id)
    with httpx.Client(base_url=tenant.server.url, trust_env=False) as browser:
        browser.post("/login", data={"key": tenant.token}, headers={"Sec-Fetch-Site": "same-origin"})
        return browser.get(f"/jobs/{lease.job_id}").text


def test_the_page_tells_whether_the_teacher_helped(page, found):
    assert "Did the teacher help?" in page
    assert unbroken(found["verdict"]["text"]) in page
    assert "&lt;dog&gt;" in page
    assert page.count('loading="lazy"') == 6
    assert 'src="/v1/datasets/ds_1/images/test/5"' in page
    assert "held-out training images" in page
    assert re.search(r'class="number">Baseline</th>', page)
    assert "The baseline is the same student, trained by labels alone." in page
    assert "vit_tiny_patch16_224, train" in page  # the teacher, in the lineage
    assert re.search(r"/v1/models/mdl_\w{26}/lineage", page)
    assert not re.search(r' style="|<script>| on\w+="', page)  # the content security policy forbids them


def test_figures_are_formatted_with_their_intervals(found):
    rows = {label: (value, note) for label, value, note in evaluation.figures(found, {"agreement": 0.95})}

    assert rows["Retention"][0] == "83.3\u00a0%"
    assert rows["Gain over baseline"][0] == "+16.7 points"
    assert rows["Gain over baseline"][1].startswith("95\u00a0% interval −")
    assert rows["Agreement"][0] == "95.0\u00a0%"


def test_the_gain_names_the_two_accuracies_of_its_difference(found):
    result = {"student": {"top1": 0.46}, "baseline": {"top1": 0.474}}

    note = next(note for label, _, note in evaluation.figures(found, result) if label == "Gain over baseline")

    assert note.endswith("; student 46.0\u00a0%, baseline 47.4\u00a0%")


def test_each_teacher_has_its_own_color(found):
    colors = [evaluation.reference_color(found | {"retention": {"teacher": index}}) for index in range(5)]

    assert colors == [2, 4, 5, 6, 4]
    assert evaluation.reference_color(found | {"retention": None}) == 2


def test_the_least_accurate_classes_come_first(found):
    rows = evaluation.class_rows(found)

    assert [(row.name, row.student, row.teacher, row.baseline) for row in rows[:1]] == [("owl", 0.5, 1.0, 1.0)]
    assert len(rows) == 3


def test_a_cell_is_as_dark_as_its_share_of_the_row(found):
    rows = dict(evaluation.matrix(found))

    assert [(cell.count, cell.heat, cell.is_diagonal) for cell in rows["owl"]] == [
        (1, 4, False), (0, 0, False), (1, 4, True),
    ]  # fmt: skip
    assert [cell.heat for cell in rows["cat"]] == [evaluation.NUM_HEATS, 0, 0]


def test_bars_of_the_reliability_diagram_have_the_height_of_the_accuracy(found):
    bars = evaluation.reliability(found)

    assert [(bar.y + bar.height, bar.height) for bar in bars] == [(pytest.approx(240), pytest.approx(200))]
    assert evaluation.reliability({"calibration": None}) == []
    assert [name for name, _ in evaluation.calibration_rows(found)] == ["Student", "Teacher", "Baseline"]
