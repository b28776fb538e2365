"""The sections of a job's page on compression, receipts and checkpoints."""

import re

import httpx
import pytest

from api.dashboard import job_files, views
from core.store import jobs
from core.store.jobs import NewArtifact

STUDENT = {"top1": 0.8, "top5": 1.0, "parameters": 10, "flops": 1e6, "size_bytes": 4_000_000, "latency_ms": 2.0}
COMPRESSED = [
    {**STUDENT, "artifact": "pruned/model.safetensors", "top1": 0.79, "size_bytes": 2_000_000, "latency_ms": 1.0,
     "step": 0, "name": "prune", "status": "applied", "reason": None},
    {**STUDENT, "artifact": None, "top1": 0.4, "size_bytes": 1_000_000, "step": 1, "name": "quantize",
     "status": "rejected", "reason": "top-1 fell from 79.00 % to 40.00 %"},
    {"artifact": None, "top1": None, "size_bytes": None, "latency_ms": None, "step": 2, "name": "merge",
     "status": "failed", "reason": "<no tokens>"},
]  # fmt: skip
RESULT = {"student": STUDENT, "teachers": [STUDENT], "compressed": COMPRESSED, "agreement": 0.9}


def receipt(*names):
    return {
        "runtime": "timm",
        "format": "safetensors",
        "logits": {"max_difference": 2e-7, "mean_difference": 1e-8, "tolerance": None, "images": 32},
        "top1": 0.79,
        "top1_student": 0.8,
        "agreement": 1.0,
        "evaluated_images": 20,
        "test_images": 20,
        "latency_ms": {"1": 1.0, "32": 16.0},
        "threads": 1,
        "size_bytes": 2_000_000,
        "sha256": "a" * 64,
        "files": [{"name": name} for name in names],
        "versions": {"torch": "2.9"},
    }


ARTIFACTS = [
    {"name": "config.json", "receipt": None},
    {"name": "pruned/model.bin", "receipt": receipt("pruned/model.xml", "pruned/model.bin")},
    {"name": "pruned/model.safetensors", "receipt": receipt("pruned/model.safetensors")},
    {"name": "pruned/model.xml", "receipt": receipt("pruned/model.xml", "pruned/model.bin")},
]


def test_each_step_is_compared_with_the_uncompressed_student():
    rows = job_files.compression_rows(RESULT, ARTIFACTS)

    assert [(row.label, row.outcome, row.artifact) for row in rows] == [
        ("Student", "student", None),
        ("0 prune", "applied", "pruned/model.safetensors"),
        ("1 quantize", "rejected", None),
        ("2 merge", "failed", None),
    ]
    assert [(row.change, row.smaller, row.batch_latency) for row in rows[:3]] == [
        ("—", "", "—"), ("−1.0", "2.0× smaller", "16 ms"), ("−40.0", "4.0× smaller", "—"),
    ]  # fmt: skip
    assert job_files.compression_rows({**RESULT, "compressed": []}, ARTIFACTS) == []


def test_an_onnx_file_is_compared_with_the_uncompressed_one():
    step = {**STUDENT, "artifact": "model.int8.onnx", "latency_ms": 0.6, "step": 0, "name": "quantize"}
    files = [{"name": name, "receipt": receipt(name)} for name in ("model.int8.onnx", "model.onnx")]
    rows = job_files.compression_rows({**RESULT, "compressed": [step]}, files)

    assert [(row.label, row.latency) for row in rows] == [
        ("Student", "2 ms"), ("Student in ONNX", "1 ms"), ("0 quantize", "0.6 ms"),
    ]  # fmt: skip


def test_a_format_of_several_files_has_one_receipt():
    assert [row.artifact for row in job_files.receipt_rows(ARTIFACTS)] == [
        "pruned/model.safetensors",
        "pruned/model.xml",
    ]


@pytest.mark.parametrize(
    ("code", "text"),
    [("teacher_below_baseline", "which is below a plain baseline"), ("student_at_chance", "at chance level")],
)
def test_an_accuracy_near_a_poor_network_is_no_success(code, text):
    teacher = {**STUDENT, "top1": 0.7}
    result = {"student": STUDENT, "teachers": [teacher]}
    field = "/teachers/0" if code.startswith("teacher") else "/training"

    plain, poor = (views.comparison(result, warnings)[0] for warnings in ([], [{"code": code, "field": field}]))

    assert (plain.verdict, plain.is_gain) == ("better than the teacher", True)
    assert (poor.verdict, poor.is_gain) == (f"better than the teacher, {text}", False)
    other = views.comparison(result, [{"code": "teacher_below_baseline", "field": "/teachers/1"}])[0]
    assert other.is_gain  # the warning is of another teacher
    assert not views.comparison({"student": {**STUDENT, "top1": 0.1}, "teachers": [teacher]})[0].is_gain


def test_the_page_has_steps_receipts_and_checkpoints(tenant, tmp_path):
    lease = tenant.running_job()
    checkpoint = tenant.checkpoint(lease, tmp_path, 5).id
    (tmp_path / "file").write_bytes(b"weights")
    stored = tenant.server.store.put(f"jobs/{lease.job_id}/a1/artifacts/model.safetensors", tmp_path / "file")
    artifacts = [NewArtifact(each["name"], "application/octet-stream", stored, each["receipt"]) for each in ARTIFACTS]
    with tenant.database.write() as session:
        jobs.succeed(session, lease, result=RESULT, artifacts=artifacts, model_id=None)
    with httpx.Client(base_url=tenant.server.url, trust_env=False) as browser:
        browser.post("/login", data={"key": tenant.token}, headers={"Sec-Fetch-Site": "same-origin"})
        page = browser.get(f"/jobs/{lease.job_id}").text
        form = browser.get(f"/jobs/new?from={lease.job_id}&checkpoint={checkpoint}").text

    assert "Step 1 quantize is rejected: top-1 fell from 79.00 % to 40.00 %." in page
    assert "&lt;no tokens&gt;" in page
    assert f'href="/v1/jobs/{lease.job_id}/artifacts/pruned/model.safetensors"' in page
    assert f'href="/jobs/new?from={lease.job_id}&amp;checkpoint={checkpoint}"' in page
    assert "data-try " in page
    assert (
        "<code>model.safetensors</code>, the student in float and not one of its compressed files, classifies" in page
    )
    assert not re.search(r' style="|<script>| on\w+="', page)  # the content security policy forbids them
    assert f"&#34;weights&#34;: &#34;{checkpoint}&#34;" in form
