from typing import get_args

import pytest

from api.dashboard import views
from api.jobs.schemas import JobAction, JobStatus

TEACHER = {"top1": 0.97, "top5": 0.99, "parameters": 11_000_000, "flops": 1e8, "size_bytes": 4e7, "latency_ms": 4.0}
STUDENT = {"top1": 0.91, "top5": None, "parameters": 200_000, "flops": 1e7, "size_bytes": 8e5, "latency_ms": 5.0}


def verdicts(student, *teachers):
    return {row.label: row.verdict for row in views.comparison({"student": student, "teachers": list(teachers)})}


def test_every_action_has_a_button_and_every_status_a_filter():
    assert set(views.ACTIONS) == set(get_args(JobAction))
    assert set(views.STATUSES) == set(get_args(JobStatus))


def test_the_buttons_are_exactly_the_next_actions(make_job):
    assert [button.name for button in views.actions(make_job())] == ["pause", "stop", "cancel"]
    assert views.actions(make_job(next_actions=[])) == []


@pytest.mark.parametrize(("fix", "style"), [(None, "primary"), ({"training": {"batch_size": 8}}, "plain")])
def test_with_a_fix_the_plain_retry_is_secondary(make_job, fix, style):
    failed = make_job(
        status="failed", terminal=True, next_actions=["retry"], error={"code": "out_of_memory", "fix": fix}
    )

    assert [(button.name, button.style) for button in views.actions(failed)] == [("retry", style)]


def test_only_cancel_needs_confirmation():
    assert [button.name for button in views.ACTIONS.values() if button.confirm] == ["cancel"]


@pytest.mark.parametrize(
    ("stage", "step", "stage_step", "shown"),
    [
        ("prepare", 0, None, None),
        ("teacher", 0, None, None),
        ("teacher", 0, 320, ("Teacher step", 320, 1_024)),
        ("distill", 0, None, ("Student step", 0, 20)),
        ("distill", 10, 10, ("Student step", 10, 20)),
        ("baseline", 20, None, ("Student step", 20, 20)),
        ("baseline", 20, 5, ("Baseline step", 5, 1_024)),
        ("compress", 20, 5, ("Fine-tuning step", 5, 1_024)),
        ("evaluate", 20, None, ("Student step", 20, 20)),
    ],
)
def test_the_counter_is_that_of_the_network_that_trains(make_job, stage, step, stage_step, shown):
    progress = make_job()["progress"] | {"step": step, "stage_step": stage_step, "stage_total_steps": 1_024}

    counter = views.step_counter(make_job(stage=stage, progress=progress))

    assert (counter and (counter.label, counter.step, counter.total)) == shown


def test_stages_are_past_and_upcoming(make_job):
    states = {stage.name: stage.state for stage in views.stages(make_job())}

    assert states == {
        "prepare": "done",
        "teacher": "done",
        "distill": "current",
        "evaluate": "upcoming",
        "export": "upcoming",
    }


def test_a_teacher_of_an_earlier_job_is_marked_as_reused(make_job):
    job = make_job()
    del job["stages"][1]

    assert [(stage.name, stage.state, stage.note) for stage in views.stages(job)][:3] == [
        ("prepare", "done", "1.5 s"),
        ("teacher", "done", "reused"),
        ("distill", "current", "now"),
    ]


def test_a_job_without_teacher_training_has_no_teacher_stage(make_job):
    queued = make_job(status="queued", stage=None, stages=[])
    queued["spec"]["teachers"] = []

    assert [stage.name for stage in views.stages(queued)] == ["prepare", "distill", "evaluate", "export"]


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_job_that_ended_early_shows_the_stopped_stage(make_job, status):
    states = [stage.state for stage in views.stages(make_job(status=status, terminal=True))]

    assert states == ["done", "done", "stopped", "skipped", "skipped"]


def test_the_student_is_compared_with_its_teacher():
    assert verdicts(STUDENT, TEACHER) == {
        "Top-1 accuracy": "keeps 93.8\u00a0% of the teacher",
        "Top-5 accuracy": "",
        "Parameters": "55× fewer",
        "FLOPs per image": "10× fewer",
        "File size": "50× smaller",
        "Latency, one image": "1.2× slower",
    }


def test_a_worse_value_is_no_gain_and_five_percent_are_the_same():
    rows = {row.label: row for row in views.comparison({"student": STUDENT, "teachers": [TEACHER]})}
    same = verdicts({**STUDENT, "latency_ms": 4.1}, TEACHER)

    assert not rows["Latency, one image"].is_gain
    assert rows["Parameters"].is_gain
    assert same["Latency, one image"] == "about the same"


def test_the_baseline_is_next_to_student_and_teacher():
    result = {"student": STUDENT, "teachers": [TEACHER], "baseline": {**STUDENT, "top1": 0.474}}

    assert views.comparison(result)[0].baseline == "47.4\u00a0%"
    assert views.comparison({**result, "baseline": None})[0].baseline is None


def test_the_student_is_compared_with_the_best_teacher():
    weak = {**TEACHER, "top1": 0.5, "parameters": 100}

    assert verdicts(STUDENT, weak, TEACHER)["Parameters"] == "55× fewer"


def test_without_a_teacher_there_are_no_verdicts():
    assert set(verdicts(STUDENT).values()) == {""}


def test_an_ended_job_is_not_refreshed(make_job):
    assert views.refresh_seconds(make_job()) > 0
    assert views.refresh_seconds(make_job(status="succeeded")) == 0
    assert views.list_refresh_seconds([make_job()]) < views.list_refresh_seconds([])


def test_the_status_is_described(make_job):
    assert views.status_text(make_job()) == "running, distill"
    assert views.status_text(make_job(pending_action="pause")) == "running, pause requested"
    assert views.status_text(make_job(status="queued")) == "queued"


def test_the_default_title_has_the_method(make_job):
    assert views.title(make_job(name=None)) == "deit wxyz01"
    assert views.summary(make_job()) == "deit · resnet18 → vit_tiny_patch16_224"


def test_the_settings_name_dataset_method_and_size(make_job):
    settings = dict(views.settings(make_job(), {"ds_1": "digits"}))

    assert settings["Dataset"] == "digits"
    assert settings["Method"] == "deit"
    assert settings["Distillation type"] == "hard"
    assert settings["Image size"] == "28 × 28"
    assert dict(views.settings(make_job(), {}))["Dataset"] == "ds_1"


def test_several_teachers_are_numbered_from_zero_as_in_the_spec(make_job):
    job = make_job()
    [teacher] = job["spec"]["teachers"]
    job["spec"]["teachers"] = [teacher, {**teacher, "architecture": "dla34"}]
    labels = dict(views.settings(job, {}))

    assert labels["Teacher 0"].startswith("resnet18")
    assert labels["Teacher 1"].startswith("dla34")
    assert "Teacher" in dict(views.settings(make_job(), {}))


def test_the_elapsed_time_is_known_at_the_end(make_job):
    assert views.elapsed_seconds(make_job()) is None
    assert views.elapsed_seconds(make_job(finished_at="2026-11-24T08:00:31.000Z")) == 30.0


def test_of_checkpoints_in_a_row_only_the_newest_is_listed():
    types = ["queued", "checkpoint.saved", "checkpoint.saved", "stage.started", "checkpoint.saved"]
    events = [{"seq": seq, "type": name} for seq, name in enumerate(types)]

    assert [event["seq"] for event in views.newest_events(events)] == [4, 3, 2, 0]


def test_compressed_files_come_first_where_the_job_makes_some(make_job):
    job = make_job()
    compressing = {**job, "spec": {**job["spec"], "compression": [{"name": "quantize"}]}}

    assert views.result_parts(job) == ("evaluation", "compression")
    assert views.result_parts(compressing) == ("compression", "evaluation")


def test_settings_name_the_unlabeled_dataset_and_the_baseline(make_job):
    job = make_job()
    spec = {**job["spec"], "unlabeled_dataset": "ds_2", "baseline": True}
    settings = dict(views.settings({**job, "spec": spec}, {"ds_2": "more"}))

    assert (settings["Unlabeled dataset"], settings["Baseline"]) == ("more", "labels alone")
